#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/fill/random_fill.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

class RandomFillGpuTest : public GpuOpTest {};

TEST_F(RandomFillGpuTest, HasTheCpusBits) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (const int64_t cols : {1, 7, 256, 1001}) {
      for (const float offset : {0.f, 1.f, 0.1f}) {
        RandomFillArgs args = {.rows = 37,
                               .cols = cols,
                               .dst_stride = cols + 5,
                               .first_row = 1 << 20,
                               .first_col = 12,
                               .row_stride = 1 << 20,
                               .key = TensorKey("model.norm", 10),
                               .scale = 0.0371f,
                               .offset = offset,
                               .dtype = dtype};
        std::vector<std::vector<uint8_t>> results;
        for (OpDevice* on : {&cpu(), &gpu()}) {
          const FloatArray out = on->Output(dtype, args.rows * args.dst_stride);
          args.dst = out.data();
          ASSERT_OK(on == &cpu() ? RandomFillCpu(args, on->stream())
                                 : RandomFillCuda(args, on->stream()));
          results.push_back(out.raw().Read());
        }
        EXPECT_EQ(results[1], results[0]) << Name(dtype) << " cols " << cols;
      }
    }
  }
}

TEST_F(RandomFillGpuTest, BadArgumentsAreRefused) {
  RandomFillArgs args = {.cols = -1};
  EXPECT_THAT(RandomFillCuda(args, gpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("cols=-1")));
  args = {.dtype = DType::kU8};
  EXPECT_THAT(RandomFillCuda(args, gpu().stream()),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("dtype u8")));
}

}  // namespace
}  // namespace tessera::testing
