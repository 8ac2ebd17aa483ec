// gtest matchers for absl::Status and absl::StatusOr.
#pragma once

#include <ostream>
#include <string>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tessera::testing {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

// StatusIs(code, message_matcher): matches a Status or StatusOr with that code and message.
MATCHER_P2(StatusIs, code, message, "") {
  const absl::Status& status = StatusOf(arg);
  *result_listener << "status is " << status;
  return status.code() == code &&
         ::testing::ExplainMatchResult(message, std::string(status.message()), result_listener);
}

}  // namespace tessera::testing

#define EXPECT_OK(expr)                                                                 \
  do {                                                                                  \
    const auto& tessera_result_ = (expr);                                               \
    EXPECT_TRUE(tessera_result_.ok()) << ::tessera::testing::StatusOf(tessera_result_); \
  } while (false)
#define ASSERT_OK(expr)                                                                 \
  do {                                                                                  \
    const auto& tessera_result_ = (expr);                                               \
    ASSERT_TRUE(tessera_result_.ok()) << ::tessera::testing::StatusOf(tessera_result_); \
  } while (false)

// ASSERT_OK_AND_ASSIGN(auto x, F()): fails the test unless F() is OK, then assigns its value.
#define ASSERT_OK_AND_ASSIGN(lhs, expr) \
  TESSERA_ASSERT_ASSIGN_IMPL(TESSERA_TEST_CONCAT(tessera_result_, __LINE__), lhs, expr)
#define TESSERA_TEST_CONCAT_INNER(a, b) a##b
#define TESSERA_TEST_CONCAT(a, b) TESSERA_TEST_CONCAT_INNER(a, b)
#define TESSERA_ASSERT_ASSIGN_IMPL(result, lhs, expr) \
  auto result = (expr);                               \
  ASSERT_TRUE(result.ok()) << result.status();        \
  lhs = *std::move(result)
