#include "common/float16.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace tessera {
namespace {

// The nearest half to x by brute force over all finite halves (ties: even mantissa).
uint16_t NearestHalf(double x) {
  uint16_t best = 0;
  double best_distance = std::numeric_limits<double>::infinity();
  for (uint32_t h = 0; h < 0x7c00; ++h) {
    const double distance = std::abs(double{F16ToFloat(static_cast<uint16_t>(h))} - std::abs(x));
    if (distance < best_distance || (distance == best_distance && h % 2 == 0)) {
      best_distance = distance;
      best = static_cast<uint16_t>(h);
    }
  }
  return static_cast<uint16_t>(best | (std::signbit(x) ? 0x8000 : 0));
}

TEST(Float16, EveryHalfSurvivesARoundTrip) {
  for (uint32_t h = 0; h <= 0xffff; ++h) {
    const auto bits = static_cast<uint16_t>(h);
    if (std::isnan(F16ToFloat(bits))) continue;
    ASSERT_EQ(FloatToF16(F16ToFloat(bits)), bits) << "bits " << h;
  }
}

TEST(Float16, RoundsToTheNearestHalfTiesToEven) {
  for (double x : {1.0, 1.00048828125, 1.00146484375, -3.14159, 65503.9, 6.1e-5, 5.96e-8, 2.98e-8,
                   8.940696716308594e-08, 0.333333, 1e-9}) {
    EXPECT_EQ(FloatToF16(static_cast<float>(x)), NearestHalf(static_cast<float>(x))) << x;
  }
}

TEST(Float16, OverflowIsInfinityAndNanStaysNan) {
  EXPECT_EQ(FloatToF16(65519.9f), 0x7bff);  // largest half is 65504; the tie is at 65520
  EXPECT_EQ(FloatToF16(65520.f), 0x7c00);
  EXPECT_EQ(FloatToF16(-std::numeric_limits<float>::infinity()), 0xfc00);
  EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(std::nanf("")))));
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::nanf("")))));
}

TEST(Float16, Bf16RoundsTiesToEven) {
  EXPECT_EQ(FloatToBf16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBf16(1.00390625f), 0x3f80);  // halfway between 0x3f80 and 0x3f81
  EXPECT_EQ(FloatToBf16(1.01171875f), 0x3f82);  // halfway between 0x3f81 and 0x3f82
  EXPECT_EQ(FloatToBf16(std::numeric_limits<float>::max()), 0x7f80);
}

}  // namespace
}  // namespace tessera
