#include "coordinator/auth.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(EqualInConstantTime, ComparesEveryByteAndTheLength) {
  EXPECT_TRUE(EqualInConstantTime("secret", "secret"));
  EXPECT_FALSE(EqualInConstantTime("Secret", "secret"));
  EXPECT_FALSE(EqualInConstantTime("secreT", "secret"));
  EXPECT_FALSE(EqualInConstantTime("secretsecret", "secret"));
  EXPECT_FALSE(EqualInConstantTime("", "secret"));
  EXPECT_FALSE(EqualInConstantTime("secret", ""));
}

}  // namespace
}  // namespace tessera
