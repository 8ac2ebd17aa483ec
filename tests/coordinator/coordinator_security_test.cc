// Who is let in: ports, tokens, secrets, TLS, stale ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/file.h"
#include "tests/coordinator/coordinator_fixture.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/link/signal.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

constexpr char kToken[] = "a bearer token";

class SecurityTest : public CoordinatorTest {
 protected:
  grpc::Status ListModels(const std::string& authorization) {
    grpc::ClientContext context;
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    v1::ListModelsResponse response;
    return inference_->ListModels(&context, {}, &response);
  }
  static std::string Pem(const std::string& name) {
    const auto text =
        ReadFile(absl::StrCat(TESSERA_SOURCE_DIR, "/tests/coordinator/testdata/", name), 1 << 20);
    EXPECT_TRUE(text.ok()) << text.status();
    return text.value_or("");
  }
};

TEST_F(SecurityTest, TakenPortIsAnError) {
  StartCoordinator();
  options_.server.listen = coordinator_->address();
  EXPECT_THAT(Coordinator::Start(options_, FakePlan, SystemClock()).status(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("already in use")));
}

TEST_F(SecurityTest, ListenAddressWithoutAPortIsInvalid) {
  for (const std::string listen : {"127.0.0.1", "127.0.0.1:70000", ":80", "127.0.0.1:x"}) {
    options_.server.listen = listen;
    EXPECT_THAT(Coordinator::Start(options_, FakePlan, SystemClock()).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(listen)));
  }
}

TEST_F(SecurityTest, WrongSecretIsRefused) {
  StartCoordinator();
  LinkOptions link = Link();
  link.secret = "another secret of a launch";
  EXPECT_THAT(FakeWorker::Start({.link = link}).status(),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("tessera-launch-secret")));
}

TEST_F(SecurityTest, SecondRankOfTheSameNumberIsRefused) {
  StartCoordinator();
  StartPool(1);
  EXPECT_THAT(FakeWorker::Start({.link = Link()}).status(),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("rank 0")));
}

TEST_F(SecurityTest, PoolOfAnotherSizeIsRefused) {
  StartCoordinator();
  StartPool(1);
  EXPECT_THAT(FakeWorker::Start({.link = Link(), .rank = 1, .ranks = 2}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("2 ranks")));
}

TEST_F(SecurityTest, HelloOfAnotherEpochIsRefused) {
  StartServing();
  Signal lost;
  absl::Status why;
  const auto serve = ServeLink::Connect(Link(), {.epoch = workers_[0]->epoch() + 1, .instance = 1},
                                        {.on_message = [](const internal::CoordinatorMessage&) {},
                                         .on_lost =
                                             [&](const absl::Status& status) {
                                               why = status;
                                               lost.Notify();
                                             }});
  ASSERT_TRUE(serve.ok());
  ASSERT_TRUE(lost.WaitFor(kPatience));
  EXPECT_THAT(why, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("epoch")));
}

TEST_F(SecurityTest, BearerTokenIsAskedOfUsers) {
  options_.auth.bearer_token = kToken;
  StartCoordinator();
  EXPECT_EQ(ListModels("").error_code(), grpc::UNAUTHENTICATED);
  EXPECT_EQ(ListModels(kToken).error_code(), grpc::UNAUTHENTICATED);
  EXPECT_EQ(ListModels("Bearer a bearer tokeN").error_code(), grpc::UNAUTHENTICATED);
  EXPECT_TRUE(ListModels(absl::StrCat("Bearer ", kToken)).ok());
}

TEST_F(SecurityTest, StreamingCallsAskForTheTokenToo) {
  options_.auth.bearer_token = kToken;
  StartCoordinator();
  StartPool(1);  // workers need none
  EXPECT_EQ(LoadTiny().error_code(), grpc::UNAUTHENTICATED);
  EXPECT_EQ(Generate(Request()).status.error_code(), grpc::UNAUTHENTICATED);
}

TEST_F(SecurityTest, TlsServesUsersAndWorkers) {
  options_.server.tls_cert_pem = Pem("cert.pem");
  options_.server.tls_key_pem = Pem("key.pem");
  StartCoordinator();
  LinkOptions link = Link();
  link.tls_root_pem = Pem("cert.pem");
  EXPECT_OK(FakeWorker::Start({.link = link}));
  grpc::SslCredentialsOptions tls;
  tls.pem_root_certs = Pem("cert.pem");
  inference_ = v1::Inference::NewStub(
      grpc::CreateChannel(coordinator_->address(), grpc::SslCredentials(tls)));
  EXPECT_TRUE(ListModels("").ok());
}

TEST_F(SecurityTest, PlainTextDoesNotGetThroughTls) {
  options_.server.tls_cert_pem = Pem("cert.pem");
  options_.server.tls_key_pem = Pem("key.pem");
  StartCoordinator();
  EXPECT_EQ(ListModels("").error_code(), grpc::UNAVAILABLE);
}

TEST_F(SecurityTest, CertificateWithoutItsKeyIsInvalid) {
  options_.server.tls_cert_pem = Pem("cert.pem");
  EXPECT_THAT(Coordinator::Start(options_, FakePlan, SystemClock()).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("TLS")));
}

TEST_F(SecurityTest, KeyOfAnotherKindIsInvalid) {
  options_.server.tls_cert_pem = Pem("cert.pem");
  options_.server.tls_key_pem = "no PEM";
  EXPECT_THAT(Coordinator::Start(options_, FakePlan, SystemClock()).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("do not belong together")));
}

TEST_F(SecurityTest, CoordinatorWithoutALaunchSecretDoesNotStart) {
  options_.auth.launch_secret.clear();
  EXPECT_THAT(Coordinator::Start(options_, FakePlan, SystemClock()).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("secret")));
}

}  // namespace
}  // namespace tessera::testing
