#include <array>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/gemm/packed_batch.h"
#include "kernels/runtime/current_gpu.h"
#include "tests/kernels/gemm/linear_on_device.h"
#include "tests/kernels/gemm/packed_case.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

GemvGpu Current() {
  return {.sm_count = CurrentGpu().sm_count, .shared_bytes = CurrentGpu().shared_bytes};
}

PackedBatchProblem ProblemOf(const LinearArgs& a) {
  return {.linear = PackedGemvProblemOf(a), .dtype = a.dtype};
}

class PackedBatchGpu : public testing::GpuOpTest {
 protected:
  void SetUp() override {
    GpuOpTest::SetUp();
    if (!IsSkipped() && !CurrentGpu().is_sm90()) GTEST_SKIP() << "needs compute capability 9.0";
  }
  // With `strips` strips a block and `blocks` blocks, or what the plan takes by itself where 0.
  void ExpectMatchesReference(PackedCase c, int strips = 0, int blocks = 0) {
    LinearCase& l = c.linear;
    if (l.dtype == DType::kF32) l.dtype = l.y_dtype = DType::kBf16;
    SCOPED_TRACE(::testing::Message()
                 << "strips=" << strips << " blocks=" << blocks << " t=" << l.t << " n=" << l.n
                 << " k=" << l.k << (l.gated ? " gated" : "") << (l.bias ? " bias" : "")
                 << (l.residual ? " residual" : "") << " " << Name(l.dtype) << " to "
                 << Name(l.y_dtype) << " bits " << c.bits << " group " << c.group
                 << (c.zeros ? " zeros" : ""));
    const PackedInputs in = RandomPacked(c, 7);
    PackedOnDevice on(gpu(), in);
    const PackedBatchPlan plan = PlanPackedBatch(Current(), ProblemOf(on.args()), strips, blocks);
    ASSERT_GT(plan.strips, 0);
    ASSERT_OK(LaunchPackedBatch(on.args(), plan, on.workspace(), on.stream().cuda));
    const LinearMismatch bad = CompareLinear(LinearReference(in.linear), on.Read(), l.n);
    EXPECT_EQ(bad.count, 0) << bad.worst;
  }
};

TEST_F(PackedBatchGpu, MatchesTheReferenceForEveryFormat) {
  for (const DType dtype : {DType::kBf16, DType::kF16})
    for (const int bits : {4, 8})
      for (const bool zeros : {false, true})
        for (const int64_t group : {128, 256, 1 << 20})
          for (const auto& [t, n, k] : {std::array<int64_t, 3>{2, 32, 64},
                                        {5, 520, 896},
                                        {8, 72, 4160},
                                        {9, 128, 128},
                                        {16, 1096, 1984}})
            ExpectMatchesReference(
                {.linear = {.t = t, .n = n, .k = k, .dtype = dtype, .y_dtype = dtype},
                 .bits = bits,
                 .group = group,
                 .zeros = zeros});
}

// Tiles taken whole, shared, and shared by blocks whose runs cross from tile to tile.
TEST_F(PackedBatchGpu, EveryCutMatches) {
  for (const int bits : {4, 8})
    for (const int strips : {1, 2, 4, 8, 16})
      for (const int blocks : {1, 3, 7, 32})
        for (const bool gated : {false, true})
          ExpectMatchesReference({.linear = {.t = blocks == 3 ? 6 : 13,
                                             .n = gated ? 344 : 680,
                                             .k = 4416,
                                             .gated = gated},
                                  .bits = bits,
                                  .zeros = strips == 2 || strips == 16},
                                 strips, blocks);
}

TEST_F(PackedBatchGpu, AddsBiasAndResidualAndWritesF32) {
  for (const int64_t t : {3, 16})
    for (const DType y_dtype : {DType::kBf16, DType::kF32})
      for (const int bits : {4, 8})
        ExpectMatchesReference({.linear = {.t = t,
                                           .n = 2056,
                                           .k = 1536,
                                           .bias = true,
                                           .residual = true,
                                           .dtype = DType::kBf16,
                                           .y_dtype = y_dtype},
                                .bits = bits});
}

TEST_F(PackedBatchGpu, ModelShapesMatchTheReference) {
  for (const int64_t t : {7, 16}) {
    ExpectMatchesReference({.linear = {.t = t, .n = 3584, .k = 3584, .residual = true}});
    ExpectMatchesReference({.linear = {.t = t, .n = 96, .k = 29568}});
    ExpectMatchesReference({.linear = {.t = t, .n = 18944, .k = 512, .gated = true}});
  }
}

TEST_F(PackedBatchGpu, RepeatsBitForBit) {
  const PackedInputs in = RandomPacked(
      {.linear = {.t = 16, .n = 4608, .k = 3584, .dtype = DType::kBf16, .y_dtype = DType::kBf16}},
      7);
  PackedOnDevice on(gpu(), in);
  const PackedBatchPlan plan = PlanPackedBatch(Current(), ProblemOf(on.args()));
  std::vector<float> first;
  for (int i = 0; i < 20; ++i) {
    ASSERT_OK(LaunchPackedBatch(on.args(), plan, on.workspace(), on.stream().cuda));
    const std::vector<float> y = on.Read();
    if (i == 0) first = y;
    EXPECT_EQ(y, first);
  }
}

}  // namespace
}  // namespace tessera
