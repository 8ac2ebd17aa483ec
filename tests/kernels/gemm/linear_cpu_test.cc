#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/linear_config.h"
#include "kernels/runtime/cpu_pool.h"
#include "tests/kernels/gemm/linear_reference.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::RoundedTo;
using testing::StatusIs;
using testing::ToBytes;

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();
constexpr float kGuard = 12345.f;
constexpr size_t kGuardCount = 32;

const void* OrNull(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

// Runs the case on `threads` threads into a poisoned output followed by guard values.
std::vector<float> RunLinear(const LinearInputs& in, int threads) {
  const LinearCase& c = in.shape;
  CpuPool pool(threads);
  const auto outputs = static_cast<size_t>(c.t * c.n);
  std::vector<float> y(outputs, kPoison);
  y.resize(outputs + kGuardCount, kGuard);
  const std::vector<uint8_t> w = ToBytes(c.weight_dtype, in.w);
  std::vector<uint8_t> workspace(static_cast<size_t>(
      LinearWorkspaceBytes(Device::kCpu, threads, c.t, c.n, c.k, c.gated, c.normed)));
  LinearArgs args = ArgsOfShape(in);
  args.x = in.x.data();
  args.w = w.data();
  args.bias = OrNull(in.bias);
  args.residual = OrNull(in.residual);
  args.y = y.data();
  args.norm_weight = OrNull(in.norm_weight);
  args.workspace = workspace.data();
  args.workspace_bytes = static_cast<int64_t>(workspace.size());
  EXPECT_OK(LinearCpu(args, {.device = Device::kCpu, .pool = &pool}));
  for (size_t i = 0; i < kGuardCount; ++i) EXPECT_EQ(y[outputs + i], kGuard);
  y.resize(outputs);
  return y;
}

void ExpectMatchesReference(const LinearCase& c) {
  SCOPED_TRACE(::testing::Message() << "t=" << c.t << " n=" << c.n << " k=" << c.k << " w "
                                    << static_cast<int>(c.weight_dtype));
  const LinearInputs in = RandomLinear(c, 7);
  const LinearMismatch bad = CompareLinear(LinearReference(in), RunLinear(in, 2), c.n);
  EXPECT_EQ(bad.count, 0) << bad.worst;
}

TEST(LinearCpu, MatchesTheReferenceAroundTileSizes) {
  for (const int64_t t : {1, 2, 3, 4, 5, 8, 9, 33})
    for (const int64_t n : {1, 3, 4, 5, 31, 32, 33})
      for (const int64_t k : {1, 7, 15, 16, 17, 64, 100})
        ExpectMatchesReference({.t = t, .n = n, .k = k});
}

TEST(LinearCpu, MatchesTheReferenceForEveryWeightType) {
  for (const DType w : {DType::kF32, DType::kBf16, DType::kF16})
    for (const int64_t t : {1, 6, 300})
      ExpectMatchesReference({.t = t, .n = 37, .k = 203, .weight_dtype = w});
}

TEST(LinearCpu, ReadsSubnormalAndSpecialF16Weights) {
  // 6e-8 is f16's smallest subnormal, 65504 its largest number.
  const std::vector<float> w = {5.9604645e-8f, -6.0975552e-5f, 65504.f,
                                std::numeric_limits<float>::infinity()};
  CpuPool pool(1);
  for (size_t i = 0; i < w.size(); ++i) {
    const std::vector<uint8_t> bytes = ToBytes(DType::kF16, {w[i]});
    const float x = 1.f;
    float y = kPoison;
    ASSERT_OK(LinearCpu(
        {.x = &x, .w = bytes.data(), .y = &y, .t = 1, .n = 1, .k = 1, .weight_dtype = DType::kF16},
        {.device = Device::kCpu, .pool = &pool}));
    EXPECT_EQ(y, RoundedTo(DType::kF16, {w[i]})[0]);
  }
}

TEST(LinearCpu, AddsBiasAndResidual) {
  ExpectMatchesReference({.t = 5, .n = 33, .k = 64, .bias = true});
  ExpectMatchesReference({.t = 5, .n = 33, .k = 64, .residual = true});
  ExpectMatchesReference({.t = 5, .n = 33, .k = 64, .bias = true, .residual = true});
}

TEST(LinearCpu, NormalisesItsInput) {
  ExpectMatchesReference({.t = 1, .n = 33, .k = 100, .normed = true});
  ExpectMatchesReference({.t = 9, .n = 33, .k = 100, .normed = true, .bias = true});
}

TEST(LinearCpu, GatesWithSilu) {
  ExpectMatchesReference({.t = 1, .n = 33, .k = 100, .gated = true});
  ExpectMatchesReference({.t = 9, .n = 65, .k = 100, .normed = true, .gated = true});
}

TEST(LinearCpu, ResidualMayBeTheOutput) {
  const LinearInputs in = RandomLinear({.t = 3, .n = 10, .k = 40, .residual = true}, 3);
  std::vector<float> y = in.residual;
  CpuPool pool(1);
  ASSERT_OK(LinearCpu({.x = in.x.data(),
                       .w = in.w.data(),
                       .residual = y.data(),
                       .y = y.data(),
                       .t = 3,
                       .n = 10,
                       .k = 40},
                      {.device = Device::kCpu, .pool = &pool}));
  const LinearMismatch bad = CompareLinear(LinearReference(in), y, 10);
  EXPECT_EQ(bad.count, 0) << bad.worst;
}

TEST(LinearCpu, ResultDoesNotDependOnThreads) {
  const LinearInputs in =
      RandomLinear({.t = 7, .n = 301, .k = 1000, .normed = true, .gated = true}, 11);
  const std::vector<float> one = RunLinear(in, 1);
  for (const int threads : {2, 3, 5}) EXPECT_EQ(RunLinear(in, threads), one) << threads;
}

TEST(LinearCpu, RowDoesNotDependOnTheOtherRows) {
  for (const DType w : {DType::kF32, DType::kBf16, DType::kF16}) {
    const LinearInputs all =
        RandomLinear({.t = 11, .n = 45, .k = 131, .normed = true, .weight_dtype = w}, 13);
    const std::vector<float> together = RunLinear(all, 1);
    for (int64_t t = 0; t < 11; ++t) {
      LinearInputs one = all;
      one.shape.t = 1;
      one.x.assign(all.x.begin() + t * 131, all.x.begin() + (t + 1) * 131);
      const std::vector<float> expected(together.begin() + t * 45, together.begin() + (t + 1) * 45);
      EXPECT_EQ(RunLinear(one, 1), expected) << "row " << t;
    }
  }
}

class LinearCpuErrors : public ::testing::Test {
 protected:
  absl::Status Call() { return LinearCpu(args_, {.device = Device::kCpu, .pool = &pool_}); }

  CpuPool pool_{1};
  std::vector<float> x_ = std::vector<float>(8, 1.f), w_ = std::vector<float>(16, 1.f), y_ = {5.f};
  LinearArgs args_ = {.x = x_.data(), .w = w_.data(), .y = y_.data(), .t = 1, .n = 1, .k = 8};
};

TEST_F(LinearCpuErrors, NegativeSizeIsInvalid) {
  args_.t = -1;
  EXPECT_THAT(Call(), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(LinearCpuErrors, GatedWithBiasOrResidualIsInvalid) {
  args_.gated = true;
  args_.bias = x_.data();
  EXPECT_THAT(Call(), StatusIs(absl::StatusCode::kInvalidArgument, _));
  args_.bias = nullptr;
  args_.residual = y_.data();
  EXPECT_THAT(Call(), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(LinearCpuErrors, NormWithoutItsWorkspaceIsInvalid) {
  args_.norm_weight = x_.data();
  EXPECT_THAT(Call(), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(LinearCpuErrors, HalfActivationsAreUnimplemented) {
  args_.dtype = DType::kBf16;
  EXPECT_THAT(Call(), StatusIs(absl::StatusCode::kUnimplemented, _));
}

TEST_F(LinearCpuErrors, IntegerWeightsAreUnimplemented) {
  args_.weight_dtype = DType::kI8;
  EXPECT_THAT(Call(), StatusIs(absl::StatusCode::kUnimplemented, _));
}

TEST_F(LinearCpuErrors, EmptyProductTouchesNothing) {
  args_.t = 0;
  EXPECT_OK(Call());
  args_.t = 1;
  args_.n = 0;
  EXPECT_OK(Call());
  EXPECT_EQ(y_[0], 5.f);
}

TEST(LinearWorkspaceBytes, GrowsWithEachDimension) {
  for (const Device device : {Device::kCpu, Device::kCuda})
    for (const bool gated : {false, true})
      for (const bool normed : {false, true}) {
        int64_t last = 0;
        for (const int64_t t : {0, 1, 2, 16, 17, 32, 33, 64, 1000}) {
          const int64_t bytes = LinearWorkspaceBytes(device, 132, t, 96, 200, gated, normed);
          EXPECT_GE(bytes, last);
          EXPECT_LE(bytes, LinearWorkspaceBytes(device, 132, t, 97, 200, gated, normed));
          EXPECT_LE(bytes, LinearWorkspaceBytes(device, 132, t, 96, 208, gated, normed));
          last = bytes;
        }
      }
}

}  // namespace
}  // namespace tessera
