// copy_columns and silu_mul on the CPU.

#include <cmath>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/gemm/copy_columns.h"
#include "kernels/gemm/silu_mul.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::StatusIs;

TEST(CopyColumns, RowsLieInWiderOnes) {
  const std::vector<float> x = {1, 2, 3, 4};
  std::vector<float> y(6, 9.f);
  ASSERT_OK(CopyColumnsCpu({.x = x.data(), .y = y.data() + 1, .t = 2, .n = 2, .y_stride = 3}, {}));
  EXPECT_THAT(y, ElementsAre(9, 1, 2, 9, 3, 4));
}

TEST(CopyColumns, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(CopyColumnsCpu({.t = -1}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("t=-1")));
  EXPECT_THAT(CopyColumnsCpu({.t = 1, .n = 4, .y_stride = 3}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("y_stride=3")));
  EXPECT_THAT(CopyColumnsCpu({.dtype = DType::kBf16}, {}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("bf16")));
}

TEST(SiluMul, IsTheGateTimesTheOther) {
  const std::vector<float> both = {0.f, 1.f, 5.f, 2.f};
  std::vector<float> y(2);
  ASSERT_OK(SiluMulCpu({.both = both.data(),
                        .y = y.data(),
                        .t = 1,
                        .n = 2,
                        .dtype = DType::kF32,
                        .y_dtype = DType::kF32},
                       {}));
  EXPECT_FLOAT_EQ(y[0], 0.f);
  EXPECT_FLOAT_EQ(y[1], static_cast<float>(2.0 / (1.0 + std::exp(-1.0))));
}

TEST(SiluMul, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(SiluMulCpu({.t = -1}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("t=-1")));
  EXPECT_THAT(SiluMulCpu({.dtype = DType::kBf16}, {}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("bf16")));
}

}  // namespace
}  // namespace tessera
