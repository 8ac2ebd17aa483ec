#include "kernels/fill/random_fill.h"

#include <cmath>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

class RandomFillTest : public CpuOpTest {
 protected:
  std::vector<float> Fill(RandomFillArgs args) {
    const int64_t stride = args.dst_stride;
    FloatArray out = cpu().Output(args.dtype, args.rows * stride);
    args.dst = out.data();
    EXPECT_OK(RandomFillCpu(args, cpu().stream()));
    return out.Read();
  }
};

// FNV's published test vectors, isthe.com/chongo/src/fnv/test_fnv.c.
TEST(TensorKey, IsFnv1a) {
  EXPECT_EQ(TensorKey("", 0), 0xcbf29ce484222325u);
  EXPECT_EQ(TensorKey("a", 1), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(TensorKey("foobar", 6), 0x85944171f73967e8u);
}

// splitmix64 from state 0 (Vigna's reference program) starts with these three words; their top 24
// bits over 2^23, less 1.
TEST_F(RandomFillTest, ValuesComeFromSplitmix64) {
  const auto out = Fill({.rows = 1, .cols = 3, .dst_stride = 3, .row_stride = 3, .scale = 1.f});
  const uint64_t words[] = {0xe220a8397b1dcdafu, 0x6e789e6aa1b965f4u, 0x06c45d188009454fu};
  for (size_t i = 0; i < 3; ++i)
    EXPECT_EQ(out[i], static_cast<double>(words[i] >> 40) * 0x1p-23 - 1.);
}

TEST_F(RandomFillTest, BlocksOfATensorHoldTheWholesValues) {
  const RandomFillArgs whole = {.rows = 40,
                                .cols = 70,
                                .dst_stride = 70,
                                .row_stride = 70,
                                .key = 9,
                                .scale = 0.02f,
                                .offset = 1.f};
  const auto all = Fill(whole);
  RandomFillArgs part = whole;
  part.rows = 13, part.cols = 21, part.dst_stride = 21, part.first_row = 7, part.first_col = 30;
  const auto block = Fill(part);
  for (size_t r = 0; r < 13; ++r)
    for (size_t c = 0; c < 21; ++c) EXPECT_EQ(block[r * 21 + c], all[(7 + r) * 70 + 30 + c]);
}

TEST_F(RandomFillTest, ColumnsPastTheBlockStayUntouched) {
  const auto out = Fill({.rows = 2, .cols = 3, .dst_stride = 5, .row_stride = 3, .scale = 1.f});
  for (const size_t i : {3u, 4u, 8u, 9u}) EXPECT_TRUE(std::isnan(out[i]));
}

TEST_F(RandomFillTest, SixteenBitValuesAreTheRoundedOnes) {
  RandomFillArgs args = {
      .rows = 3, .cols = 100, .dst_stride = 100, .row_stride = 100, .scale = 0.1f};
  const auto exact = Fill(args);
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    args.dtype = dtype;
    EXPECT_EQ(Fill(args), RoundedTo(dtype, exact));
  }
}

TEST_F(RandomFillTest, ValuesAreUniformOverTheRange) {
  constexpr int64_t kCount = 1 << 20;
  const auto out = Fill({.rows = 1024,
                         .cols = 1024,
                         .dst_stride = 1024,
                         .row_stride = 1024,
                         .key = TensorKey("w", 1),
                         .scale = 0.5f,
                         .offset = 2.f});
  double sum = 0., squares = 0.;
  for (const float v : out) {
    ASSERT_GE(v, 1.5f);
    ASSERT_LE(v, 2.5f);
    sum += v - 2.;
    squares += (v - 2.) * (v - 2.);
  }
  // Standard deviation 0.5 / sqrt(3); five of the mean's own.
  EXPECT_NEAR(sum / kCount, 0., 5 * 0.2887 / std::sqrt(kCount));
  EXPECT_NEAR(squares / kCount, 0.25 / 3., 1e-3);
}

TEST_F(RandomFillTest, OtherKeysGiveOtherValues) {
  RandomFillArgs args = {
      .rows = 1, .cols = 8, .dst_stride = 8, .row_stride = 8, .key = 1, .scale = 1.f};
  const auto a = Fill(args);
  args.key = 2;
  EXPECT_NE(Fill(args), a);
}

TEST_F(RandomFillTest, BadArgumentsAreRefused) {
  RandomFillArgs args = {.rows = -1};
  EXPECT_THAT(RandomFillCpu(args, cpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rows=-1")));
  args = {.dtype = DType::kI8};
  EXPECT_THAT(RandomFillCpu(args, cpu().stream()),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("dtype i8")));
}

}  // namespace
}  // namespace tessera::testing
