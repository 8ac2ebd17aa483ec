// Run under mpirun by all ranks at once.
#include "parallel/mpi_plan_channel.h"

#include <time.h>

#include <cstdio>

#include "tests/parallel/mpi_world.h"
#include "tests/parallel/plan_contract.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::StatusIs;
using testing::WorldRank;

constexpr int64_t kBytes = 50000;  // several messages between hosts

double ThreadCpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// The parameter is the number of hosts to take the ranks to be on; rank r is on host r % hosts.
class MpiPlanChannelTest : public ::testing::TestWithParam<int> {
 protected:
  void Open(const PlanChannelOptions& options) {
    auto channel = NewMpiPlanChannel(MPI_COMM_WORLD, options, WorldRank() % GetParam());
    ASSERT_OK(channel);
    channel_ = *std::move(channel);
  }
  std::unique_ptr<PlanChannel> channel_;
};
INSTANTIATE_TEST_SUITE_P(Hosts, MpiPlanChannelTest, ::testing::Values(1, 2, 3));

TEST_P(MpiPlanChannelTest, EveryFollowerGetsEveryPlanOnce) {
  ASSERT_NO_FATAL_FAILURE(
      Open({.max_plan_bytes = kBytes, .capacity_plans = 4, .publish_timeout = absl::Seconds(20)}));
  if (WorldRank() == 0)
    testing::PublishPlans(*channel_, 500, kBytes);
  else
    testing::ExpectPlansInOrder(*channel_, 500, kBytes);
}

TEST_P(MpiPlanChannelTest, FollowersThatStopReadingStopTheLeader) {
  int ranks = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  if (ranks == 1) GTEST_SKIP() << "needs a follower";
  ASSERT_NO_FATAL_FAILURE(
      Open({.max_plan_bytes = 4, .capacity_plans = 2, .publish_timeout = absl::Milliseconds(50)}));
  if (WorldRank() == 0) {
    EXPECT_OK(channel_->Publish({1}));
    EXPECT_OK(channel_->Publish({2}));
    EXPECT_THAT(channel_->Publish({3}), StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  }
  MPI_Barrier(MPI_COMM_WORLD);
  // What was published before is still delivered.
  if (WorldRank() != 0) {
    ASSERT_OK_AND_ASSIGN(const absl::Span<const uint8_t> plan, channel_->Next(absl::Seconds(20)));
    EXPECT_THAT(plan, ::testing::ElementsAre(1));
    EXPECT_OK(channel_->Next(absl::Seconds(20)));
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

TEST_P(MpiPlanChannelTest, PlanAfterATimeoutIsNotLost) {
  ASSERT_NO_FATAL_FAILURE(Open({}));
  if (WorldRank() != 0) {
    EXPECT_THAT(channel_->Next(absl::Milliseconds(1)),
                StatusIs(absl::StatusCode::kDeadlineExceeded, _));
  }
  MPI_Barrier(MPI_COMM_WORLD);
  if (WorldRank() == 0)
    testing::PublishPlans(*channel_, 3, 100);
  else
    testing::ExpectPlansInOrder(*channel_, 3, 100);
}

// 2 % of a core, whether the rank sleeps on the futex or polls for another host's leader.
TEST_P(MpiPlanChannelTest, WaitingCostsAlmostNoCpu) {
  ASSERT_NO_FATAL_FAILURE(Open({}));
  constexpr double kSeconds = 5;
  const double before = ThreadCpuSeconds();
  if (WorldRank() != 0) {
    for (int i = 0; i < 50; ++i) EXPECT_FALSE(channel_->Next(absl::Seconds(kSeconds / 50)).ok());
  }
  const double used = ThreadCpuSeconds() - before;
  std::printf("rank %d of %d hosts: %.2f %% of a core while idle\n", WorldRank(), GetParam(),
              100 * used / kSeconds);
  EXPECT_LT(used, 0.02 * kSeconds);
}

TEST(NewMpiPlanChannel, RefusesSizesThatAreNotPositive) {
  EXPECT_THAT(NewMpiPlanChannel(MPI_COMM_WORLD, {.max_plan_bytes = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(NewMpiPlanChannel(MPI_COMM_WORLD, {.capacity_plans = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST(NewMpiPlanChannel, EachSideRefusesTheOthersCall) {
  ASSERT_OK_AND_ASSIGN(const auto channel, NewMpiPlanChannel(MPI_COMM_WORLD, {}));
  const bool is_leader = WorldRank() == 0;
  const absl::Status refused =
      is_leader ? channel->Next(absl::ZeroDuration()).status() : channel->Publish({1});
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition, _));
}

}  // namespace
}  // namespace tessera
