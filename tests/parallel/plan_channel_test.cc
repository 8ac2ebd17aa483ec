#include "parallel/plan_channel.h"

#include <time.h>

#include <thread>

#include "tests/parallel/plan_contract.h"

namespace tessera {
namespace {

using ::testing::_;
using ::testing::HasSubstr;
using testing::StatusIs;

double ThreadCpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

TEST(PlanChannel, EveryFollowerGetsEveryPlanOnce) {
  constexpr int64_t kBytes = 3000;
  constexpr int kPlans = 2000;  // many times round a ring of 4
  auto ends = NewLoopbackPlanChannels(4, {.max_plan_bytes = kBytes, .capacity_plans = 4});
  std::vector<std::thread> followers;
  for (size_t r = 1; r < ends.size(); ++r)
    followers.emplace_back([&, r] { testing::ExpectPlansInOrder(*ends[r], kPlans, kBytes); });
  testing::PublishPlans(*ends[0], kPlans, kBytes);
  for (std::thread& follower : followers) follower.join();
}

TEST(PlanChannel, SpinningFollowerGetsThePlansToo) {
  auto ends = NewLoopbackPlanChannels(
      2, {.max_plan_bytes = 100, .capacity_plans = 2, .spin = absl::Microseconds(50)});
  std::thread follower([&] { testing::ExpectPlansInOrder(*ends[1], 500, 100); });
  testing::PublishPlans(*ends[0], 500, 100);
  follower.join();
}

TEST(PlanChannel, GroupOfOnePublishesToNobody) {
  auto ends = NewLoopbackPlanChannels(1, {.max_plan_bytes = 8, .capacity_plans = 1});
  testing::PublishPlans(*ends[0], 10, 8);
}

TEST(PlanChannel, PlanStaysReadableWhileLaterOnesArrive) {
  auto ends = NewLoopbackPlanChannels(2, {.max_plan_bytes = 4, .capacity_plans = 2});
  ASSERT_OK(ends[0]->Publish({1, 2}));
  ASSERT_OK_AND_ASSIGN(const absl::Span<const uint8_t> plan, ends[1]->Next(absl::Seconds(1)));
  ASSERT_OK(ends[0]->Publish({3, 4}));
  EXPECT_THAT(plan, ::testing::ElementsAre(1, 2));
}

TEST(PlanChannel, NoPlanWithinTheTimeoutIsDeadlineExceeded) {
  auto ends = NewLoopbackPlanChannels(2, {});
  EXPECT_THAT(ends[1]->Next(absl::Milliseconds(1)),
              StatusIs(absl::StatusCode::kDeadlineExceeded, HasSubstr("no plan")));
}

TEST(PlanChannel, PlanAfterATimeoutIsNotLost) {
  auto ends = NewLoopbackPlanChannels(2, {});
  EXPECT_FALSE(ends[1]->Next(absl::Milliseconds(1)).ok());
  ASSERT_OK(ends[0]->Publish({7}));
  ASSERT_OK_AND_ASSIGN(const absl::Span<const uint8_t> plan, ends[1]->Next(absl::Seconds(1)));
  EXPECT_THAT(plan, ::testing::ElementsAre(7));
}

TEST(PlanChannel, AFollowerAFullRingBehindStopsTheLeader) {
  auto ends = NewLoopbackPlanChannels(
      3, {.max_plan_bytes = 4, .capacity_plans = 2, .publish_timeout = absl::Milliseconds(5)});
  for (uint8_t i = 0; i < 2; ++i) {
    ASSERT_OK(ends[0]->Publish({i}));
    ASSERT_OK(ends[1]->Next(absl::Seconds(1)));
  }
  ASSERT_FALSE(ends[1]->Next(absl::ZeroDuration()).ok());
  EXPECT_THAT(ends[0]->Publish({9}), StatusIs(absl::StatusCode::kDeadlineExceeded,
                                              HasSubstr("reader 1 of 2 is 2 plans behind")));
}

TEST(PlanChannel, RefusesAPlanLargerThanAgreed) {
  auto ends = NewLoopbackPlanChannels(2, {.max_plan_bytes = 3});
  EXPECT_THAT(ends[0]->Publish({1, 2, 3, 4}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4 bytes, at most 3")));
}

TEST(PlanChannel, EachSideRefusesTheOthersCall) {
  auto ends = NewLoopbackPlanChannels(2, {});
  EXPECT_THAT(ends[1]->Publish({1}), StatusIs(absl::StatusCode::kFailedPrecondition, _));
  EXPECT_THAT(ends[0]->Next(absl::ZeroDuration()),
              StatusIs(absl::StatusCode::kFailedPrecondition, _));
}

TEST(PlanChannel, WaitingCostsAlmostNoCpu) {
  auto ends = NewLoopbackPlanChannels(2, {});
  const double before = ThreadCpuSeconds();
  EXPECT_FALSE(ends[1]->Next(absl::Milliseconds(500)).ok());
  EXPECT_LT(ThreadCpuSeconds() - before, 0.01);  // 2 % of a core
}

}  // namespace
}  // namespace tessera
