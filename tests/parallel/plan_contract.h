// What a plan channel must do between any kinds of ranks.
#pragma once

#include <algorithm>
#include <vector>

#include "parallel/plan_channel.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {

// Plan `number` of a stream that every rank can compute: sizes vary from 0 to max_bytes.
inline std::vector<uint8_t> TestPlan(int number, int64_t max_bytes) {
  const int64_t bytes = number % 5 == 4 ? 0 : number % 7 == 3 ? max_bytes : number * 37 % max_bytes;
  std::vector<uint8_t> plan(static_cast<size_t>(bytes));
  for (size_t i = 0; i < plan.size(); ++i)
    plan[i] = static_cast<uint8_t>(i * 31 + static_cast<size_t>(number));
  return plan;
}

inline void PublishPlans(PlanChannel& leader, int count, int64_t max_bytes) {
  for (int i = 0; i < count; ++i) ASSERT_OK(leader.Publish(TestPlan(i, max_bytes)));
}

inline void ExpectPlansInOrder(PlanChannel& follower, int count, int64_t max_bytes) {
  for (int i = 0; i < count; ++i) {
    ASSERT_OK_AND_ASSIGN(const absl::Span<const uint8_t> plan, follower.Next(absl::Seconds(20)));
    const std::vector<uint8_t> expected = TestPlan(i, max_bytes);
    ASSERT_TRUE(std::equal(plan.begin(), plan.end(), expected.begin(), expected.end()))
        << "plan " << i << " of " << plan.size() << " bytes";
  }
}

}  // namespace tessera::testing
