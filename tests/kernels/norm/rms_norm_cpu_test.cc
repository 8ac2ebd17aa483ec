#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/norm/rms_norm.h"
#include "kernels/runtime/cpu_pool.h"
#include "tests/support/column_order.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::ColumnOrder;
using testing::ExpectOrdered;
using testing::RandomOrder;
using testing::SeededRandom;
using testing::StatusIs;

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

class RmsNormCpuTest : public ::testing::Test {
 protected:
  absl::Status Call(const RmsNormArgs& args) {
    return RmsNormCpu(args, {.device = Device::kCpu, .pool = &pool_});
  }

  CpuPool pool_{2};
};

// fp32 sums of d terms err by a few 1e-7 relatively; 1e-6 leaves room for the tree's depth.
void ExpectNorm(const float* x, const std::vector<float>& weight, float eps, const float* y) {
  double squares = 0;
  for (size_t i = 0; i < weight.size(); ++i) squares += double{x[i]} * x[i];
  const double scale = 1 / std::sqrt(squares / static_cast<double>(weight.size()) + eps);
  for (size_t i = 0; i < weight.size(); ++i)
    ASSERT_NEAR(y[i], weight[i] * x[i] * scale, 1e-6 * std::abs(weight[i] * x[i] * scale) + 1e-12);
}

TEST_F(RmsNormCpuTest, MatchesTheReferenceAtOddWidths) {
  SeededRandom random(1);
  for (const int64_t d : {1, 15, 16, 17, 896, 5001})
    for (const int64_t t : {1, 2, 9}) {
      const auto x = random.Normal(t * d, 2.f);
      const auto weight = random.Normal(d, 1.f);
      std::vector<float> y(static_cast<size_t>(t * d), kPoison);
      ASSERT_OK(Call(
          {.x = x.data(), .weight = weight.data(), .y = y.data(), .t = t, .d = d, .eps = 1e-5f}));
      for (int64_t i = 0; i < t; ++i) ExpectNorm(x.data() + i * d, weight, 1e-5f, y.data() + i * d);
    }
}

TEST_F(RmsNormCpuTest, GathersRowsAndZerosNegativeOnes) {
  SeededRandom random(2);
  const auto x = random.Normal(4 * 24, 1.f);
  const auto weight = random.Normal(24, 1.f);
  const std::vector<int32_t> rows = {3, -1, 0};
  std::vector<float> y(3 * 24, kPoison);
  ASSERT_OK(Call({.x = x.data(),
                  .weight = weight.data(),
                  .y = y.data(),
                  .rows = rows.data(),
                  .t = 3,
                  .d = 24,
                  .eps = 1e-6f}));
  ExpectNorm(&x[3 * 24], weight, 1e-6f, &y[0]);
  EXPECT_EQ(std::vector<float>(y.begin() + 24, y.begin() + 48), std::vector<float>(24, 0.f));
  ExpectNorm(&x[0], weight, 1e-6f, &y[48]);
}

TEST_F(RmsNormCpuTest, AddsToTheResidualFirst) {
  SeededRandom random(3);
  const auto residual = random.Normal(2 * 40, 1.f);
  const auto add = random.Normal(2 * 40, 1.f);
  const auto weight = random.Normal(40, 1.f);
  std::vector<float> sum = residual, y(2 * 40, kPoison);
  ASSERT_OK(Call({.weight = weight.data(),
                  .y = y.data(),
                  .add = add.data(),
                  .residual = sum.data(),
                  .t = 2,
                  .d = 40,
                  .eps = 1e-6f}));
  for (size_t i = 0; i < sum.size(); ++i) EXPECT_EQ(sum[i], residual[i] + add[i]);
  for (size_t i = 0; i < 2; ++i) ExpectNorm(&sum[i * 40], weight, 1e-6f, &y[i * 40]);
}

TEST_F(RmsNormCpuTest, WorksInPlace) {
  SeededRandom random(4);
  const auto x = random.Normal(3 * 33, 1.f);
  const auto weight = random.Normal(33, 1.f);
  std::vector<float> y = x;
  ASSERT_OK(Call({.x = y.data(), .weight = weight.data(), .y = y.data(), .t = 3, .d = 33}));
  for (size_t i = 0; i < 3; ++i) ExpectNorm(&x[i * 33], weight, 0.f, &y[i * 33]);
}

TEST_F(RmsNormCpuTest, NegativeSizeIsInvalid) {
  EXPECT_THAT(Call({.t = -1, .d = 8}), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(RmsNormCpuTest, AddWithoutResidualOrWithRowsIsInvalid) {
  float v[8] = {};
  const int32_t row = 0;
  EXPECT_THAT(Call({.weight = v, .y = v, .add = v, .t = 1, .d = 8}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(Call({.weight = v, .y = v, .rows = &row, .add = v, .residual = v, .t = 1, .d = 8}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(RmsNormCpuTest, HalfIsUnimplemented) {
  EXPECT_THAT(Call({.t = 1, .d = 8, .dtype = DType::kBf16}),
              StatusIs(absl::StatusCode::kUnimplemented, _));
}

// Two orders with the plain row between them, as q, k and v may want.
TEST_F(RmsNormCpuTest, CopiesFollowOneAnotherInTheirOrders) {
  SeededRandom random(5);
  constexpr int64_t kT = 3, kD = 200;
  const auto x = random.Normal(kT * kD, 1.f), weight = random.Normal(kD, 1.f);
  const std::vector<int32_t> rows = {1, -1, 0};
  std::vector<float> plain(kT * kD, kPoison);
  RmsNormArgs args = {.x = x.data(),
                      .weight = weight.data(),
                      .y = plain.data(),
                      .rows = rows.data(),
                      .t = kT,
                      .d = kD,
                      .eps = 1e-6f};
  ASSERT_OK(Call(args));
  const ColumnOrder first = RandomOrder(kD, 1), last = RandomOrder(kD, 2);
  std::vector<float> y(static_cast<size_t>(kT * (first.width() + kD + last.width())), kPoison);
  args.y = y.data();
  args.copies = {{{first.places.data(), first.width()}, {}, {last.places.data(), last.width()}}, 3};
  ASSERT_OK(Call(args));
  ExpectOrdered(y, 0, plain, first, kT);
  const auto middle = y.begin() + kT * first.width();
  EXPECT_EQ(std::vector<float>(middle, middle + kT * kD), plain);
  ExpectOrdered(y, kT * (first.width() + kD), plain, last, kT);
}

TEST_F(RmsNormCpuTest, OrdersThatDoNotHoldTheRowAreInvalid) {
  const std::vector<int32_t> places(24);
  for (const int64_t width : {16, 24}) {
    RmsNormArgs args = {.t = 1, .d = 24};
    args.copies = {{{places.data(), width}}, 1};
    EXPECT_THAT(Call(args), StatusIs(absl::StatusCode::kInvalidArgument, _)) << width;
  }
  EXPECT_THAT(Call({.copies = {{}, 4}, .t = 1, .d = 24}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
}

}  // namespace
}  // namespace tessera
