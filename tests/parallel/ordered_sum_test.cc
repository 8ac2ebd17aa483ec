#include "parallel/ordered_sum.h"

#include <vector>

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(SumInOrder, AddsLeftToRight) {
  // 1e8 + 1 - 1e8 is 0 in fp32 from the left, and 1 in any order that cancels first.
  const float a = 1e8f, b = 1.f, c = -1e8f;
  float sum = -1;
  SumInOrder({&a, &b, &c}, 1, DType::kF32, &sum);
  EXPECT_EQ(sum, 0.f);
  SumInOrder({&a, &c, &b}, 1, DType::kF32, &sum);
  EXPECT_EQ(sum, 1.f);
}

TEST(SumInOrder, OutputMayBeAPart) {
  std::vector<float> a(3000), b(3000);
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] = static_cast<float>(i);
    b[i] = 1.f;
  }
  SumInOrder({a.data(), b.data()}, 3000, DType::kF32, b.data());
  for (size_t i = 0; i < a.size(); ++i) ASSERT_EQ(b[i], static_cast<float>(i) + 1.f);
}

TEST(SumInOrder, RoundsBf16OnceAtTheEnd) {
  // 256 + 1 + 1: each step alone would round back to 256 in bf16 (8 significant bits); 258 fits.
  const uint16_t parts[] = {0x4380, 0x3f80, 0x3f80};
  uint16_t sum = 0;
  SumInOrder({&parts[0], &parts[1], &parts[2]}, 1, DType::kBf16, &sum);
  EXPECT_EQ(sum, 0x4381);
}

TEST(SumInOrder, AddsF16) {
  const uint16_t one = 0x3c00, two = 0x4000;
  uint16_t sum = 0;
  SumInOrder({&one, &two}, 1, DType::kF16, &sum);
  EXPECT_EQ(sum, 0x4200);  // 3
}

}  // namespace
}  // namespace tessera
