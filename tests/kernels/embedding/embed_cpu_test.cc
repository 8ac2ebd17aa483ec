#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/embedding/embed.h"
#include "kernels/runtime/cpu_pool.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::RoundedTo;
using testing::SeededRandom;
using testing::StatusIs;
using testing::ToBytes;

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

class EmbedCpuTest : public ::testing::Test {
 protected:
  absl::Status Call(const EmbedArgs& args) {
    return EmbedCpu(args, {.device = Device::kCpu, .pool = &pool_});
  }

  CpuPool pool_{2};
};

TEST_F(EmbedCpuTest, CopiesRowsOfEveryFloatType) {
  SeededRandom random(1);
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    const auto table = RoundedTo(dtype, random.Normal(5 * 7, 1.f));
    const std::vector<uint8_t> bytes = ToBytes(dtype, table);
    const std::vector<int32_t> tokens = {4, 0, 4};
    std::vector<float> y(3 * 7, kPoison);
    ASSERT_OK(Call({.tokens = tokens.data(),
                    .table = bytes.data(),
                    .y = y.data(),
                    .t = 3,
                    .d = 7,
                    .rows = 5,
                    .table_dtype = dtype}));
    for (size_t i = 0; i < 3; ++i)
      for (size_t j = 0; j < 7; ++j)
        EXPECT_EQ(y[i * 7 + j], table[static_cast<size_t>(tokens[i]) * 7 + j]);
  }
}

TEST_F(EmbedCpuTest, TokensOutsideTheShardGiveZeros) {
  const std::vector<float> table = {1.f, 2.f};  // rows 10 and 11
  const std::vector<int32_t> tokens = {9, 10, 11, 12, -1, std::numeric_limits<int32_t>::min()};
  std::vector<float> y(6, kPoison);
  ASSERT_OK(Call({.tokens = tokens.data(),
                  .table = table.data(),
                  .y = y.data(),
                  .t = 6,
                  .d = 1,
                  .first_row = 10,
                  .rows = 2}));
  EXPECT_EQ(y, (std::vector<float>{0.f, 1.f, 2.f, 0.f, 0.f, 0.f}));
}

TEST_F(EmbedCpuTest, NegativeSizeIsInvalid) {
  EXPECT_THAT(Call({.t = 1, .d = -8}), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(EmbedCpuTest, HalfActivationsAreUnimplemented) {
  EXPECT_THAT(Call({.t = 1, .d = 8, .dtype = DType::kF16}),
              StatusIs(absl::StatusCode::kUnimplemented, _));
}

}  // namespace
}  // namespace tessera
