#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include <cuda_runtime_api.h>
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
    ExpectMatches(RandomPacked(c, 7), strips, blocks);
  }
  void ExpectMatches(const PackedInputs& in, int strips = 0, int blocks = 0) {
    PackedOnDevice on(gpu(), in);
    const PackedBatchPlan plan =
        PlanPackedBatch(Current(), PackedGemvProblemOf(on.args()), strips, blocks);
    ASSERT_GT(plan.strips, 0);
    ASSERT_OK(LaunchPackedBatch(on.args(), plan, on.workspace(), on.stream().cuda));
    const LinearMismatch bad =
        CompareLinear(LinearReference(in.linear), on.Read(), in.linear.shape.n);
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

TEST_F(PackedBatchGpu, GroupsOfOneBlockOfEightBitsMatch) {
  for (const bool zeros : {false, true})
    ExpectMatchesReference(
        {.linear = {.t = 11, .n = 264, .k = 1088}, .bits = 8, .group = 64, .zeros = zeros});
}

TEST_F(PackedBatchGpu, AddsBiasAndResidualAndWritesF32) {
  for (const int64_t t : {3, 16})
    for (const DType dtype : {DType::kBf16, DType::kF16})
      for (const DType y_dtype : {dtype, DType::kF32})
        for (const int bits : {4, 8})
          for (const int strips : {0, 8})
            ExpectMatchesReference({.linear = {.t = t,
                                               .n = 2056,
                                               .k = 1536,
                                               .bias = true,
                                               .residual = true,
                                               .dtype = dtype,
                                               .y_dtype = y_dtype},
                                    .bits = bits},
                                   strips);
}

TEST_F(PackedBatchGpu, ResidualMayBeTheOutput) {
  const PackedInputs in = RandomPacked({.linear = {.t = 13,
                                                   .n = 520,
                                                   .k = 1536,
                                                   .residual = true,
                                                   .dtype = DType::kBf16,
                                                   .y_dtype = DType::kBf16}},
                                       3);
  PackedOnDevice on(gpu(), in);
  const testing::FloatArray y = gpu().Upload(DType::kBf16, in.linear.residual);
  on.args().residual = on.args().y = y.data();
  const PackedBatchPlan plan = PlanPackedBatch(Current(), PackedGemvProblemOf(on.args()));
  ASSERT_OK(LaunchPackedBatch(on.args(), plan, on.workspace(), on.stream().cuda));
  const LinearMismatch bad = CompareLinear(LinearReference(in.linear), y.Read(), 520);
  EXPECT_EQ(bad.count, 0) << bad.worst;
}

// A channel of x a thousand times as large as the others.
TEST_F(PackedBatchGpu, OutliersDoNotBlurOtherColumns) {
  for (const int bits : {4, 8}) {
    PackedInputs in = RandomPacked(
        {.linear = {.t = 16, .n = 520, .k = 1536, .dtype = DType::kBf16, .y_dtype = DType::kF32},
         .bits = bits},
        5);
    for (int64_t t = 0; t < 16; ++t) in.linear.x[static_cast<size_t>(t * 1536 + 77)] = 2048;
    ExpectMatches(in);
  }
}

TEST_F(PackedBatchGpu, ModelShapesMatchTheReference) {
  for (const int64_t t : {7, 16}) {
    ExpectMatchesReference({.linear = {.t = t, .n = 3584, .k = 3584, .residual = true}});
    ExpectMatchesReference({.linear = {.t = t, .n = 40, .k = 29568}});
    ExpectMatchesReference({.linear = {.t = t, .n = 18944, .k = 512, .gated = true}});
  }
}

// Launches of several shapes that overlap, with one workspace, so that flags and partial sums of
// one meet those of the next. Whole and shared tiles, and runs that cross.
TEST_F(PackedBatchGpu, OverlappedLaunchesRepeatBitForBit) {
  const std::array<std::array<int64_t, 2>, 3> shapes = {
      {{4608, 3584}, {3584, 18944}, {1024, 4096}}};
  std::vector<std::unique_ptr<PackedOnDevice>> layers;
  std::vector<std::vector<float>> expected;
  std::vector<PackedBatchPlan> plans;
  for (const auto& [n, k] : shapes) {
    layers.push_back(std::make_unique<PackedOnDevice>(
        gpu(),
        RandomPacked(
            {.linear = {.t = 16, .n = n, .k = k, .dtype = DType::kBf16, .y_dtype = DType::kBf16}},
            7)));
    PackedOnDevice& on = *layers.back();
    // The second one's blocks cross from tile to tile.
    plans.push_back(PlanPackedBatch(Current(), PackedGemvProblemOf(on.args()), 2,
                                    k == 18944 ? Current().sm_count - 1 : 0));
    ASSERT_OK(LaunchPackedBatch(on.args(), plans.back(), layers[0]->workspace(), on.stream().cuda));
    expected.push_back(on.Read());
  }
  for (int run = 0; run < 10; ++run) {
    for (size_t i = 0; i < layers.size(); ++i)
      ASSERT_OK(gpu().runtime().Zero(layers[i]->args().y, 16 * shapes[i][0] * 2, gpu().stream()));
    for (int again = 0; again < 5; ++again)
      for (size_t i = 0; i < layers.size(); ++i)
        ASSERT_OK(LaunchPackedBatch(layers[i]->args(), plans[i], layers[0]->workspace(),
                                    gpu().stream().cuda));
    for (size_t i = 0; i < layers.size(); ++i)
      ASSERT_EQ(layers[i]->Read(), expected[i]) << "run " << run << " shape " << i;
  }
}

// Two streams with a workspace each, one of them replaying a graph. Tiles are shared.
TEST_F(PackedBatchGpu, StreamsAndGraphsDoNotMeet) {
  const PackedInputs in = RandomPacked(
      {.linear = {.t = 16, .n = 3584, .k = 3584, .dtype = DType::kBf16, .y_dtype = DType::kBf16}},
      7);
  PackedOnDevice a(gpu(), in), b(gpu(), in);
  const PackedBatchPlan plan =
      PlanPackedBatch(Current(), PackedGemvProblemOf(a.args()), 2, Current().sm_count);
  ASSERT_OK(LaunchPackedBatch(a.args(), plan, a.workspace(), a.stream().cuda));
  const std::vector<float> expected = a.Read();
  ASSERT_OK(gpu().runtime().Zero(a.args().y, 16 * 3584 * 2, gpu().stream()));
  ASSERT_OK(gpu().Sync());

  cudaStream_t other = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(other, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  for (int i = 0; i < 3; ++i) EXPECT_OK(LaunchPackedBatch(b.args(), plan, b.workspace(), other));
  ASSERT_EQ(cudaStreamEndCapture(other, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&replay, graph, 0), cudaSuccess);
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(cudaGraphLaunch(replay, other), cudaSuccess);
    ASSERT_OK(LaunchPackedBatch(a.args(), plan, a.workspace(), a.stream().cuda));
  }
  ASSERT_EQ(cudaStreamSynchronize(other), cudaSuccess);
  EXPECT_EQ(a.Read(), expected);
  EXPECT_EQ(b.Read(), expected);
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(other);
}

TEST_F(PackedBatchGpu, RefusesPlansThatDoNotFit) {
  const PackedInputs in = RandomPacked(
      {.linear = {.t = 16, .n = 264, .k = 1024, .dtype = DType::kBf16, .y_dtype = DType::kBf16}},
      7);
  PackedOnDevice on(gpu(), in);
  const PackedBatchPlan plan = PlanPackedBatch(Current(), PackedGemvProblemOf(on.args()));
  const auto code = [&](PackedBatchPlan p, LinearWorkspace workspace) {
    return LaunchPackedBatch(on.args(), p, workspace, on.stream().cuda).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  LinearWorkspace small = on.workspace();
  small.library_bytes = plan.scratch_bytes - 1;
  EXPECT_EQ(code(plan, small), kInvalid);
  PackedBatchPlan other = plan;
  other.strips = 0;
  EXPECT_EQ(code(other, on.workspace()), kInvalid);
  other = plan;
  other.blocks = plan.tiles * plan.rounds + 1;
  EXPECT_EQ(code(other, on.workspace()), kInvalid);
}

}  // namespace
}  // namespace tessera
