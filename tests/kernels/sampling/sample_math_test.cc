#include "kernels/sampling/sample_math.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "tests/support/op_fixture.h"

namespace tessera {
namespace {

// Known answers of Random123 1.09 (kat_vectors, philox4x32 10).
TEST(Philox, GivesRandom123sKnownAnswers) {
  const auto expect = [](const Philox4x32& got, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    EXPECT_EQ(got.word[0], a);
    EXPECT_EQ(got.word[1], b);
    EXPECT_EQ(got.word[2], c);
    EXPECT_EQ(got.word[3], d);
  };
  expect(Philox({{0, 0, 0, 0}}, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  expect(Philox({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u), 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
  expect(Philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
         0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1);
}

TEST(WeightOf, IsTwoToTheMinusDistance) {
  testing::SeededRandom random(1);
  for (int i = 0; i < 100000; ++i) {
    const uint64_t distance = random.Bits() % (uint64_t{42} << 32);
    const double exact = std::exp2(42. - static_cast<double>(distance) * 0x1p-32);
    EXPECT_NEAR(static_cast<double>(WeightOf(distance)), exact, 1. + exact * 0x1p-27);
  }
}

TEST(WeightOf, IsExactAtWholeOctavesAndNeverGrows) {
  for (uint64_t octave = 0; octave < 42; ++octave) {
    const uint64_t at = octave << 32;
    EXPECT_EQ(WeightOf(at), kMaxWeight >> octave);
    EXPECT_LE(WeightOf(at + 1), WeightOf(at));
    if (at > 0) {
      EXPECT_GE(WeightOf(at - 1), WeightOf(at));
    }
  }
  testing::SeededRandom random(2);
  for (int i = 0; i < 100000; ++i) {
    const uint64_t distance = random.Bits() % (uint64_t{42} << 32);
    EXPECT_GE(WeightOf(distance), WeightOf(distance + random.Bits() % 1000));
  }
  EXPECT_EQ(WeightOf(kTooFar), 0u);
}

TEST(KeyOf, OrdersAsTheLogitsDoAndComesBack) {
  const float inf = std::numeric_limits<float>::infinity();
  const float ordered[] = {-inf, -3e38f, -1.f, -1e-45f, 0.f, 1e-45f, 2.f, 3e38f, inf};
  for (size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(LogitOf(KeyOf(ordered[i])), ordered[i]);
    EXPECT_NE(KeyOf(ordered[i]), 0u);
    if (i > 0) {
      EXPECT_LT(KeyOf(ordered[i - 1]), KeyOf(ordered[i]));
    }
  }
}

TEST(TopPGoal, StaysBetweenOneAndTheTotal) {
  for (const uint64_t total : {uint64_t{1}, uint64_t{1000}, uint64_t{1} << 62}) {
    for (const float p : {-1.f, 0.f, 1e-45f, 1e-6f, 0.5f, 0.999999f, 1.f, 2.f, NAN}) {
      EXPECT_GE(TopPGoal(total, p), 1u) << p;
      EXPECT_LE(TopPGoal(total, p), total) << p;
    }
  }
  EXPECT_EQ(TopPGoal(1000, 0.25f), 250u);  // 750 are dropped
}

TEST(MinPWeight, RoundsUp) {
  EXPECT_EQ(MinPWeight(0.f), 0u);
  EXPECT_EQ(MinPWeight(0.5f), kMaxWeight / 2);
  EXPECT_EQ(MinPWeight(1.f), kMaxWeight);
  EXPECT_EQ(MinPWeight(7.f), kMaxWeight);
  EXPECT_EQ(MinPWeight(0x1p-43f), 1u);
}

}  // namespace
}  // namespace tessera
