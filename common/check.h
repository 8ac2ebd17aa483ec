// CHECK: for bugs in our own code, never for input. Prints the expression and values, then aborts.
#pragma once

#include <string>

#include <absl/base/optimization.h>
#include <absl/strings/str_cat.h>

namespace tessera::internal {

[[noreturn]] void CheckFails(const char* file, int line, const char* expression,
                             const std::string& values);

}  // namespace tessera::internal

// TESSERA_CHECK(n > 0, "n=", n): aborts with the message when the condition is false.
#define TESSERA_CHECK(condition, ...)                                                 \
  do {                                                                                \
    if (ABSL_PREDICT_FALSE(!(condition)))                                             \
      ::tessera::internal::CheckFails(__FILE__, __LINE__, #condition,                 \
                                      ::absl::StrCat("" __VA_OPT__(, ) __VA_ARGS__)); \
  } while (false)
