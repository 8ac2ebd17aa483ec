#include "kernels/gemm/gemv_config.h"

#include <initializer_list>

#include <gtest/gtest.h>

namespace tessera {
namespace {

constexpr GemvGpu kH200 = {.sm_count = 132, .shared_bytes = 227 * 1024};
// Of a multiprocessor, less 1 KB that CUDA keeps for each of two blocks.
constexpr int64_t kTwoBlocksBytes = 226 * 1024;

int64_t PassRows(const GemvPlan& plan) { return 8 * kGemvTiles[plan.tile].tiles; }

TEST(PlanGemv, PassesCoverTheLargestBlock) {
  for (const bool gated : {false, true})
    for (const int64_t t : {1, 8, 9, 16})
      for (int64_t n = 1; n < 20000; n += n < 200 ? 1 : 97) {
        const GemvPlan plan = PlanGemv(kH200, {.t = t, .n = n, .k = 1024, .gated = gated});
        ASSERT_GE(plan.blocks, 1);
        ASSERT_LE(plan.blocks, kH200.sm_count);
        const int64_t outputs = (n + plan.blocks - 1) / plan.blocks;
        ASSERT_GE(plan.passes * plan.pass_outputs, outputs) << "n=" << n;
        ASSERT_LE(plan.pass_outputs * (gated ? 2 : 1), PassRows(plan)) << "n=" << n;
      }
}

TEST(PlanGemv, BlocksTogetherCoverEveryOutputOnce) {
  for (int64_t n = 1; n < 3000; ++n) {
    const GemvPlan plan = PlanGemv(kH200, {.t = 1, .n = n, .k = 64});
    ASSERT_EQ(plan.blocks * plan.block_outputs + plan.larger_blocks, n);
    ASSERT_LT(plan.larger_blocks, plan.blocks);
  }
}

TEST(PlanGemv, GatedTilesSplitIntoHalves) {
  for (int64_t n = 1; n < 5000; ++n)
    ASSERT_EQ(kGemvTiles[PlanGemv(kH200, {.t = 1, .n = n, .k = 64, .gated = true}).tile].tiles % 2,
              0)
        << "n=" << n;
}

TEST(PlanGemv, FitsABlockForEveryRowCount) {
  for (const bool gated : {false, true})
    for (int64_t t = 1; t <= kGemvMaxRows; ++t)
      for (const int64_t n : {1, 500, 1000, 2000, 3000, 4608, 5000, 20000, 152064})
        for (const int64_t k : {8, 896, 3584, 8192, 29568}) {
          const bool inside = GemvNormsInside(t, k);
          EXPECT_LE(PlanGemv(kH200, {t, n, k, gated, inside}).shared_bytes, kH200.shared_bytes)
              << "t=" << t << " n=" << n << " k=" << k;
        }
}

TEST(PlanGemv, BatchOneFitsAnA100) {
  constexpr GemvGpu kA100 = {.sm_count = 108, .shared_bytes = 163 * 1024};
  for (const int64_t n : {896, 4608, 29568, 152064})
    for (const int64_t k : {896, 3584, 8192, 29568})
      EXPECT_LE(
          PlanGemv(kA100, {.t = 1, .n = n, .k = k, .normed = GemvNormsInside(1, k)}).shared_bytes,
          kA100.shared_bytes)
          << "n=" << n << " k=" << k;
}

TEST(PlanGemv, LargeWeightsTakeAMultiprocessorForEachBlock) {
  // o, gate_up and head of a 7B model, down of a 72B one.
  for (const GemvProblem& p : std::initializer_list<GemvProblem>{
           {.t = 1, .n = 3584, .k = 3584},
           {.t = 1, .n = 18944, .k = 3584, .gated = true, .normed = true},
           {.t = 1, .n = 152064, .k = 3584, .normed = true},
           {.t = 1, .n = 8192, .k = 29568}})
    EXPECT_GT(2 * PlanGemv(kH200, p).shared_bytes, kTwoBlocksBytes) << "n=" << p.n;
}

TEST(PlanGemv, SmallNeighboursShareAMultiprocessor) {
  // qkv, o, gate_up, down and again qkv of a 0.5B model.
  const GemvProblem layer[] = {{.t = 1, .n = 1152, .k = 896, .normed = true},
                               {.t = 1, .n = 896, .k = 896},
                               {.t = 1, .n = 4864, .k = 896, .gated = true, .normed = true},
                               {.t = 1, .n = 896, .k = 4864},
                               {.t = 1, .n = 1152, .k = 896, .normed = true}};
  for (int i = 0; i + 1 < 5; ++i)
    EXPECT_LE(PlanGemv(kH200, layer[i]).shared_bytes + PlanGemv(kH200, layer[i + 1]).shared_bytes,
              kTwoBlocksBytes)
        << "op " << i;
}

TEST(GemvNormsInside, HoldsForOneRowOfEveryModel) {
  for (const int64_t k : {896, 1536, 3584, 8192}) EXPECT_TRUE(GemvNormsInside(1, k));
  EXPECT_FALSE(GemvNormsInside(16, 8192));
}

}  // namespace
}  // namespace tessera
