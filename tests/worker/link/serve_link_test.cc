#include "worker/link/serve_link.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"
#include "tests/worker/link/link_fixture.h"

namespace tessera {
namespace {

using ::testing::_;
using ::testing::HasSubstr;
using testing::kPatience;
using testing::LinkTest;
using testing::ScriptedCoordinator;
using testing::Signal;
using testing::StatusIs;

class ServeLinkTest : public LinkTest {
 protected:
  absl::StatusOr<std::unique_ptr<ServeLink>> Connect() {
    return ServeLink::Connect(OptionsFor(coordinator_), {.epoch = 2, .instance = 9},
                              {.on_message =
                                   [this](const internal::CoordinatorMessage& message) {
                                     message_ = message;
                                     got_message_.Notify();
                                   },
                               .on_lost = TakeLoss()});
  }

  internal::CoordinatorMessage message_;
  Signal got_message_;
  // What scripts share with their tests lives here: a script may outlast the test's body.
  Signal done_;
  internal::LeaderMessage first_, second_;
  ScriptedCoordinator coordinator_;
};

TEST_F(ServeLinkTest, HelloComesFirstThenWhatIsSent) {
  coordinator_.on_serve = [this](grpc::ServerContext&, auto& stream) {
    stream.Read(&first_);
    stream.Read(&second_);
    done_.Notify();
    return grpc::Status::OK;
  };
  coordinator_.Start();
  ASSERT_OK_AND_ASSIGN(const auto link, Connect());
  internal::LeaderMessage message;
  message.mutable_stats()->set_running(4);
  EXPECT_OK(link->Send(message));
  ASSERT_TRUE(done_.WaitFor(kPatience));
  EXPECT_EQ(first_.hello().epoch(), 2);
  EXPECT_EQ(first_.hello().instance(), 9);
  EXPECT_EQ(second_.stats().running(), 4);
}

TEST_F(ServeLinkTest, MessagesOfTheCoordinatorAreDelivered) {
  coordinator_.on_serve = [this](grpc::ServerContext&, auto& stream) {
    internal::CoordinatorMessage message;
    message.mutable_cancel()->set_sequence(6);
    stream.Write(message);
    internal::LeaderMessage in;
    while (stream.Read(&in)) {
    }
    return grpc::Status::OK;
  };
  coordinator_.Start();
  ASSERT_OK_AND_ASSIGN(const auto link, Connect());
  ASSERT_TRUE(got_message_.WaitFor(kPatience));
  EXPECT_EQ(message_.cancel().sequence(), 6u);
}

TEST_F(ServeLinkTest, RefusedHelloIsALossWithItsReason) {
  coordinator_.on_serve = [this](grpc::ServerContext&, auto&) {
    return grpc::Status(grpc::FAILED_PRECONDITION, "stale epoch");
  };
  coordinator_.Start();
  const auto link = Connect();
  ASSERT_OK(link);
  ASSERT_TRUE(lost_.WaitFor(kPatience));
  EXPECT_THAT(why_lost_, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("stale")));
  EXPECT_THAT((*link)->Send({}), StatusIs(absl::StatusCode::kUnavailable, _));
}

TEST_F(ServeLinkTest, NobodyThereIsUnavailable) {
  coordinator_.Start();
  coordinator_.Stop();
  timeout_ = absl::Milliseconds(100);
  EXPECT_THAT(Connect(), StatusIs(absl::StatusCode::kUnavailable, _));
}

TEST_F(ServeLinkTest, CoordinatorThatDoesNotReadOverflowsTheQueue) {
  coordinator_.on_serve = [this](grpc::ServerContext&, auto&) {
    done_.WaitFor(kPatience);
    return grpc::Status::OK;
  };
  coordinator_.Start();
  const auto link = Connect();
  ASSERT_OK(link);
  internal::LeaderMessage message;
  message.mutable_tokens()->add_events()->set_error_message(std::string(8 << 20, 'x'));
  absl::Status status;
  for (int i = 0; i < 20 && status.ok(); ++i) status = (*link)->Send(message);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, _));
  EXPECT_TRUE(lost_.WaitFor(kPatience));
  EXPECT_THAT(why_lost_, StatusIs(absl::StatusCode::kResourceExhausted, _));
  done_.Notify();
}

}  // namespace
}  // namespace tessera
