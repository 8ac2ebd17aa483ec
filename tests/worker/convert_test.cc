#include "worker/convert.h"

#include <vector>

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(ConvertFloats, WidensExactly) {
  const std::vector<uint16_t> bf16 = {0x3f80, 0xc000, 0x0001};
  std::vector<float> out(3);
  ConvertFloats(bf16.data(), DType::kBf16, out.data(), DType::kF32, 3);
  EXPECT_EQ(out, (std::vector<float>{1.f, -2.f, 0x1p-133f}));
}

TEST(ConvertFloats, NarrowsToNearestEven) {
  const std::vector<float> in = {1.f, 1.00390625f, 65504.f};
  std::vector<uint16_t> out(3);
  ConvertFloats(in.data(), DType::kF32, out.data(), DType::kBf16, 3);
  EXPECT_EQ(out, (std::vector<uint16_t>{0x3f80, 0x3f80, 0x4780}));
  ConvertFloats(in.data(), DType::kF32, out.data(), DType::kF16, 3);
  EXPECT_EQ(out, (std::vector<uint16_t>{0x3c00, 0x3c04, 0x7bff}));
}

TEST(ConvertFloats, SameTypeIsACopy) {
  const std::vector<uint16_t> in = {1, 2, 3};
  std::vector<uint16_t> out(3);
  ConvertFloats(in.data(), DType::kF16, out.data(), DType::kF16, 3);
  EXPECT_EQ(out, in);
}

}  // namespace
}  // namespace tessera
