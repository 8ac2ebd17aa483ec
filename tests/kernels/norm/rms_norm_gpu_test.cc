#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/norm/rms_norm.h"
#include "tests/support/column_order.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::ColumnOrder;
using testing::ExpectOrdered;
using testing::FloatArray;
using testing::RandomOrder;
using testing::RoundedTo;
using testing::SeededRandom;
using testing::StatusIs;

class RmsNormGpu : public testing::GpuOpTest {
 protected:
  // Rounded once: half a unit in the last place, 2^-8 of the value for bf16, 2^-11 for f16, and
  // what fp32 errs.
  static void ExpectNorm(DType dtype, const float* x, const std::vector<float>& weight, float eps,
                         const float* y) {
    const double half_ulp = dtype == DType::kBf16 ? 0x1p-8 : 0x1p-11;
    double squares = 0;
    for (size_t i = 0; i < weight.size(); ++i) squares += double{x[i]} * x[i];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(weight.size()) + eps);
    for (size_t i = 0; i < weight.size(); ++i) {
      const double expected = weight[i] * x[i] * scale;
      ASSERT_NEAR(y[i], expected, (half_ulp + 0x1p-19) * std::abs(expected) + 1e-7)
          << "element " << i;
    }
  }
};

TEST_F(RmsNormGpu, MatchesTheReferenceAtEveryWidth) {
  SeededRandom random(1);
  for (const DType dtype : {DType::kBf16, DType::kF16})
    for (const int64_t d : {8, 248, 256, 264, 896, 3584, 8192, 8200, 32768})
      for (const int64_t t : {1, 3, 17}) {
        SCOPED_TRACE(::testing::Message() << "t=" << t << " d=" << d);
        const auto x = RoundedTo(dtype, random.Normal(t * d, 2.f));
        const auto weight = RoundedTo(dtype, random.Normal(d, 1.f));
        const FloatArray dx = gpu().Upload(dtype, x), dw = gpu().Upload(dtype, weight);
        const FloatArray dy = gpu().Output(dtype, t * d);
        ASSERT_OK(RmsNormCuda({.x = dx.data(),
                               .weight = dw.data(),
                               .y = dy.data(),
                               .t = t,
                               .d = d,
                               .eps = 1e-6f,
                               .dtype = dtype},
                              gpu().stream()));
        const std::vector<float> y = dy.Read();
        for (int64_t i = 0; i < t; ++i)
          ExpectNorm(dtype, x.data() + i * d, weight, 1e-6f, y.data() + i * d);
      }
}

TEST_F(RmsNormGpu, GathersRowsAndZerosNegativeOnes) {
  SeededRandom random(2);
  const auto x = RoundedTo(DType::kBf16, random.Normal(4 * 64, 1.f));
  const auto weight = RoundedTo(DType::kBf16, random.Normal(64, 1.f));
  const FloatArray dx = gpu().Upload(DType::kBf16, x), dw = gpu().Upload(DType::kBf16, weight);
  const auto rows = gpu().Upload<int32_t>({3, -1, 0});
  const FloatArray dy = gpu().Output(DType::kBf16, 3 * 64);
  ASSERT_OK(RmsNormCuda({.x = dx.data(),
                         .weight = dw.data(),
                         .y = dy.data(),
                         .rows = rows.data(),
                         .t = 3,
                         .d = 64,
                         .eps = 1e-6f,
                         .dtype = DType::kBf16},
                        gpu().stream()));
  const std::vector<float> y = dy.Read();
  ExpectNorm(DType::kBf16, &x[3 * 64], weight, 1e-6f, &y[0]);
  EXPECT_EQ(std::vector<float>(y.begin() + 64, y.begin() + 128), std::vector<float>(64, 0.f));
  ExpectNorm(DType::kBf16, &x[0], weight, 1e-6f, &y[128]);
}

TEST_F(RmsNormGpu, AddsToTheResidualFirst) {
  SeededRandom random(3);
  for (const int64_t d : {40, 3584, 16384}) {
    const auto residual = RoundedTo(DType::kBf16, random.Normal(2 * d, 1.f));
    const auto add = RoundedTo(DType::kBf16, random.Normal(2 * d, 1.f));
    const auto weight = RoundedTo(DType::kBf16, random.Normal(d, 1.f));
    const FloatArray dr = gpu().Upload(DType::kBf16, residual),
                     da = gpu().Upload(DType::kBf16, add), dw = gpu().Upload(DType::kBf16, weight);
    const FloatArray dy = gpu().Output(DType::kBf16, 2 * d);
    ASSERT_OK(RmsNormCuda({.weight = dw.data(),
                           .y = dy.data(),
                           .add = da.data(),
                           .residual = dr.data(),
                           .t = 2,
                           .d = d,
                           .eps = 1e-6f,
                           .dtype = DType::kBf16},
                          gpu().stream()));
    std::vector<float> sum(residual.size());
    for (size_t i = 0; i < sum.size(); ++i) sum[i] = residual[i] + add[i];
    sum = RoundedTo(DType::kBf16, sum);
    EXPECT_EQ(dr.Read(), sum);
    const std::vector<float> y = dy.Read();
    for (int64_t i = 0; i < 2; ++i)
      ExpectNorm(DType::kBf16, sum.data() + i * d, weight, 1e-6f, y.data() + i * d);
  }
}

TEST_F(RmsNormGpu, WorksInPlace) {
  SeededRandom random(4);
  const auto x = RoundedTo(DType::kF16, random.Normal(3 * 1000, 1.f));
  const auto weight = RoundedTo(DType::kF16, random.Normal(1000, 1.f));
  const FloatArray dx = gpu().Upload(DType::kF16, x), dw = gpu().Upload(DType::kF16, weight);
  ASSERT_OK(RmsNormCuda({.x = dx.data(),
                         .weight = dw.data(),
                         .y = dx.data(),
                         .t = 3,
                         .d = 1000,
                         .eps = 1e-6f,
                         .dtype = DType::kF16},
                        gpu().stream()));
  const std::vector<float> y = dx.Read();
  for (int64_t i = 0; i < 3; ++i)
    ExpectNorm(DType::kF16, x.data() + i * 1000, weight, 1e-6f, y.data() + i * 1000);
}

TEST_F(RmsNormGpu, OddAndTooWideRowsAreInvalid) {
  for (const int64_t d : {int64_t{12}, int64_t{32776}, int64_t{-8}})
    EXPECT_THAT(RmsNormCuda({.t = 1, .d = d, .dtype = DType::kBf16}, gpu().stream()),
                StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(RmsNormGpu, AddWithoutResidualIsInvalid) {
  EXPECT_THAT(RmsNormCuda({.add = this, .t = 1, .d = 8, .dtype = DType::kBf16}, gpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(RmsNormGpu, F32IsUnimplemented) {
  EXPECT_THAT(RmsNormCuda({.t = 1, .d = 8}, gpu().stream()),
              StatusIs(absl::StatusCode::kUnimplemented, _));
}

// The same bits as without copies, padding rows and all widths of a thread's share included.
TEST_F(RmsNormGpu, CopiesFollowOneAnotherInTheirOrders) {
  SeededRandom random(5);
  for (const DType dtype : {DType::kBf16, DType::kF16})
    for (const int64_t d : {8, 264, 3584, 8200, 16384}) {
      SCOPED_TRACE(d);
      constexpr int64_t kT = 4;
      const FloatArray x = gpu().Upload(dtype, random.Normal(kT * d, 1.f));
      const FloatArray weight = gpu().Upload(dtype, random.Normal(d, 1.f));
      const auto rows = gpu().Upload<int32_t>({2, -1, 0, 3});
      const FloatArray plain = gpu().Output(dtype, kT * d);
      RmsNormArgs args = {.x = x.data(),
                          .weight = weight.data(),
                          .y = plain.data(),
                          .rows = rows.data(),
                          .t = kT,
                          .d = d,
                          .eps = 1e-6f,
                          .dtype = dtype};
      ASSERT_OK(RmsNormCuda(args, gpu().stream()));
      const ColumnOrder first = RandomOrder(d, 1), last = RandomOrder(d, 2);
      const auto first_list = gpu().Upload(first.places), last_list = gpu().Upload(last.places);
      const FloatArray y = gpu().Output(dtype, kT * (first.width() + d + last.width()));
      args.y = y.data();
      args.copies = {{{first_list.data(), first.width()}, {}, {last_list.data(), last.width()}}, 3};
      ASSERT_OK(RmsNormCuda(args, gpu().stream()));
      const std::vector<float> got = y.Read(), want = plain.Read();
      ExpectOrdered(got, 0, want, first, kT);
      const auto middle = got.begin() + kT * first.width();
      EXPECT_EQ(std::vector<float>(middle, middle + kT * d), want);
      ExpectOrdered(got, kT * (first.width() + d), want, last, kT);
    }
}

TEST_F(RmsNormGpu, OrdersPastSharedMemoryAreInvalid) {
  RmsNormArgs args = {.t = 1, .d = 24000, .dtype = DType::kBf16};
  const int32_t unread = 0;
  args.copies = {{{&unread, 24016}}, 1};
  EXPECT_THAT(RmsNormCuda(args, gpu().stream()), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

}  // namespace
}  // namespace tessera
