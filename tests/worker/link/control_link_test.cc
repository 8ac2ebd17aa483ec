#include "worker/link/control_link.h"

#include <atomic>
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

class ControlLinkTest : public LinkTest {
 protected:
  absl::StatusOr<std::unique_ptr<ControlLink>> Connect() {
    internal::Register self;
    self.set_rank(3);
    return ControlLink::Connect(
        OptionsFor(coordinator_), self, steps_,
        {.on_command = [this](const internal::WorkerCommand& command) { commands_(command); },
         .on_lost = TakeLoss()});
  }

  std::atomic<int64_t> steps_{0};
  std::function<void(const internal::WorkerCommand&)> commands_ =
      [](const internal::WorkerCommand&) {};
  // What scripts share with their tests lives here: a script may outlast the test's body.
  Signal seen_;
  Signal commanded_;
  std::string secret_;
  internal::WorkerReport registration_;
  std::atomic<int> calls_{0};
  ScriptedCoordinator coordinator_;
};

TEST_F(ControlLinkTest, RegistersWithTheSecretAndTakesTheEpoch) {
  coordinator_.on_control = [this](grpc::ServerContext& context, auto& stream) {
    const auto place = context.client_metadata().find("tessera-launch-secret");
    secret_ = std::string(place->second.data(), place->second.size());
    ScriptedCoordinator::Welcome(stream, 7, registration_);
    seen_.Notify();
    internal::WorkerReport report;
    while (stream.Read(&report)) {
    }
    return grpc::Status::OK;
  };
  coordinator_.Start();
  ASSERT_OK_AND_ASSIGN(const auto link, Connect());
  EXPECT_EQ(link->epoch(), 7);
  ASSERT_TRUE(seen_.WaitFor(kPatience));
  EXPECT_EQ(secret_, "s");
  EXPECT_EQ(registration_.register_().rank(), 3);
}

TEST_F(ControlLinkTest, HeartbeatsCarryTheStepCounterAndTheEpoch) {
  coordinator_.on_control = [this](grpc::ServerContext&, auto& stream) {
    ScriptedCoordinator::Welcome(stream, 7);
    internal::WorkerReport report;
    while (stream.Read(&report)) {
      if (report.heartbeat().steps() == 42 && report.epoch() == 7 && !seen_.notified()) {
        seen_.Notify();
      }
    }
    return grpc::Status::OK;
  };
  coordinator_.Start();
  ASSERT_OK_AND_ASSIGN(const auto link, Connect());
  steps_ = 42;
  EXPECT_TRUE(seen_.WaitFor(kPatience));
}

TEST_F(ControlLinkTest, CommandsAndReportsGetThrough) {
  coordinator_.on_control = [this](grpc::ServerContext&, auto& stream) {
    ScriptedCoordinator::Welcome(stream, 7);
    internal::WorkerCommand command;
    command.mutable_unload()->set_instance(5);
    stream.Write(command);
    internal::WorkerReport report;
    while (stream.Read(&report)) {
      if (report.unloaded().instance() == 5) seen_.Notify();
    }
    return grpc::Status::OK;
  };
  coordinator_.Start();
  commands_ = [this](const internal::WorkerCommand& command) {
    if (command.unload().instance() == 5) commanded_.Notify();
  };
  ASSERT_OK_AND_ASSIGN(const auto link, Connect());
  ASSERT_TRUE(commanded_.WaitFor(kPatience));
  internal::WorkerReport report;
  report.mutable_unloaded()->set_instance(5);
  link->Report(std::move(report));
  EXPECT_TRUE(link->Flush(kPatience));
  EXPECT_TRUE(seen_.WaitFor(kPatience));
}

TEST_F(ControlLinkTest, RefusalIsReturnedWithItsReason) {
  coordinator_.on_control = [](grpc::ServerContext&, auto&) {
    return grpc::Status(grpc::ALREADY_EXISTS, "rank 3 is there");
  };
  coordinator_.Start();
  EXPECT_THAT(Connect(),
              StatusIs(absl::StatusCode::kAlreadyExists, std::string("rank 3 is there")));
}

TEST_F(ControlLinkTest, UnavailableCoordinatorIsTriedAgain) {
  coordinator_.on_control = [this](grpc::ServerContext&, auto& stream) {
    if (calls_++ == 0) return grpc::Status(grpc::UNAVAILABLE, "an old pool still leaves");
    ScriptedCoordinator::Welcome(stream, 8);
    internal::WorkerReport report;
    while (stream.Read(&report)) {
    }
    return grpc::Status::OK;
  };
  coordinator_.Start();
  ASSERT_OK_AND_ASSIGN(const auto link, Connect());
  EXPECT_EQ(link->epoch(), 8);
}

TEST_F(ControlLinkTest, NobodyThereIsUnavailableAfterTheTimeout) {
  coordinator_.Start();
  coordinator_.Stop();
  timeout_ = absl::Milliseconds(100);
  EXPECT_THAT(Connect(),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr(coordinator_.address())));
}

TEST_F(ControlLinkTest, SilentCoordinatorIsADeadlineExceeded) {
  coordinator_.on_control = [this](grpc::ServerContext&, auto& stream) {
    internal::WorkerReport report;
    while (stream.Read(&report)) {
    }
    return grpc::Status::OK;
  };
  coordinator_.Start();
  timeout_ = absl::Milliseconds(100);
  EXPECT_THAT(Connect(), StatusIs(absl::StatusCode::kDeadlineExceeded, _));
}

TEST_F(ControlLinkTest, LossOfTheCoordinatorIsToldOnce) {
  coordinator_.on_control = [this](grpc::ServerContext&, auto& stream) {
    ScriptedCoordinator::Welcome(stream, 7);
    return grpc::Status(grpc::UNAVAILABLE, "pool lost");
  };
  coordinator_.Start();
  const auto link = Connect();
  ASSERT_OK(link);
  ASSERT_TRUE(lost_.WaitFor(kPatience));
  EXPECT_THAT(why_lost_, StatusIs(absl::StatusCode::kUnavailable, std::string("pool lost")));
}

TEST_F(ControlLinkTest, StopIsNotALoss) {
  coordinator_.on_control = [this](grpc::ServerContext&, auto& stream) {
    ScriptedCoordinator::Welcome(stream, 7);
    internal::WorkerReport report;
    while (stream.Read(&report)) {
    }
    return grpc::Status::OK;
  };
  coordinator_.Start();
  ASSERT_OK_AND_ASSIGN(auto link, Connect());
  link.reset();
  EXPECT_FALSE(lost_.notified());
}

}  // namespace
}  // namespace tessera
