#include "coordinator/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

constexpr QueueLimits kLimits = {.requests = 2, .tokens = 100, .bytes = 1000};
constexpr absl::StatusCode kFull = absl::StatusCode::kResourceExhausted;

TEST(Admission, EachLimitRefusesByItself) {
  Admission admission(kLimits);
  ASSERT_OK(admission.Enter({.requests = 1, .tokens = 50, .bytes = 500}));
  EXPECT_THAT(admission.Enter({.requests = 2}), StatusIs(kFull, HasSubstr("requests")));
  EXPECT_THAT(
      admission.Enter({.requests = 1, .tokens = 51}),
      StatusIs(kFull, HasSubstr("50 prompt tokens wait and 51 more pass the limit of 100")));
  EXPECT_THAT(admission.Enter({.requests = 1, .bytes = 501}), StatusIs(kFull, HasSubstr("bytes")));
}

TEST(Admission, LimitsMayBeFilledExactly) {
  Admission admission(kLimits);
  ASSERT_OK(admission.Enter({.requests = 1, .tokens = 50, .bytes = 500}));
  EXPECT_OK(admission.Enter({.requests = 1, .tokens = 50, .bytes = 500}));
}

TEST(Admission, RefusedLoadIsNotCounted) {
  Admission admission(kLimits);
  ASSERT_OK(admission.Enter({.requests = 1}));
  ASSERT_FALSE(admission.Enter({.requests = 2}).ok());
  EXPECT_EQ(admission.queued().requests, 1);
}

TEST(Admission, EmptyQueueTakesAnyLoad) {
  Admission admission(kLimits);
  EXPECT_OK(admission.Enter({.requests = 16, .tokens = 5000, .bytes = 50'000}));
}

TEST(Admission, LeavingMakesRoom) {
  Admission admission(kLimits);
  ASSERT_OK(admission.Enter({.requests = 2, .tokens = 100, .bytes = 1000}));
  admission.Leave({.requests = 1, .tokens = 50, .bytes = 500});
  EXPECT_OK(admission.Enter({.requests = 1, .tokens = 50, .bytes = 500}));
}

}  // namespace
}  // namespace tessera
