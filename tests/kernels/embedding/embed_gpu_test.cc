#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/embedding/embed.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::FloatArray;
using testing::RoundedTo;
using testing::SeededRandom;
using testing::StatusIs;

class EmbedGpu : public testing::GpuOpTest {};

TEST_F(EmbedGpu, CopiesRowsAndZerosTokensOfOtherShards) {
  SeededRandom random(1);
  for (const DType dtype : {DType::kBf16, DType::kF16})
    for (const int64_t d : {8, 24, 896}) {
      const auto table = RoundedTo(dtype, random.Normal(5 * d, 1.f));
      const FloatArray dt = gpu().Upload(dtype, table);
      const std::vector<int32_t> tokens = {104, 99, 100, 105, -1, 104};
      const auto dk = gpu().Upload(tokens);
      const FloatArray dy = gpu().Output(dtype, 6 * d);
      ASSERT_OK(EmbedCuda({.tokens = dk.data(),
                           .table = dt.data(),
                           .y = dy.data(),
                           .t = 6,
                           .d = d,
                           .first_row = 100,
                           .rows = 5,
                           .dtype = dtype,
                           .table_dtype = dtype},
                          gpu().stream()));
      std::vector<float> expected;
      for (const int32_t token : tokens)
        for (int64_t j = 0; j < d; ++j)
          expected.push_back(token < 100 || token >= 105
                                 ? 0.f
                                 : table[static_cast<size_t>((token - 100) * d + j)]);
      EXPECT_EQ(dy.Read(), expected);
    }
}

TEST_F(EmbedGpu, OddWidthIsInvalid) {
  EXPECT_THAT(EmbedCuda({.t = 1, .d = 12, .dtype = DType::kBf16, .table_dtype = DType::kBf16},
                        gpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(EmbedGpu, MixedTypesAreUnimplemented) {
  EXPECT_THAT(EmbedCuda({.t = 1, .d = 8, .dtype = DType::kBf16, .table_dtype = DType::kF16},
                        gpu().stream()),
              StatusIs(absl::StatusCode::kUnimplemented, _));
}

}  // namespace
}  // namespace tessera
