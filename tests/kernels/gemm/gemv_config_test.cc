#include "kernels/gemm/gemv_config.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

constexpr int kSms = 132;  // H200
constexpr int64_t kSharedBytes =
    227 * 1024;  // what a block may have, and two blocks together less 1 KB each

int64_t PassRows(const GemvPlan& plan) { return 8 * kGemvTiles[plan.tile].tiles; }

TEST(PlanGemv, PassesCoverTheLargestBlock) {
  for (const bool gated : {false, true})
    for (const int64_t t : {1, 8, 9, 16})
      for (int64_t n = 1; n < 20000; n += n < 200 ? 1 : 97) {
        const GemvPlan plan = PlanGemv(kSms, t, n, 1024, gated, false);
        ASSERT_GE(plan.blocks, 1);
        ASSERT_LE(plan.blocks, kSms);
        const int64_t outputs = (n + plan.blocks - 1) / plan.blocks;
        ASSERT_GE(plan.passes * plan.pass_outputs, outputs) << "n=" << n;
        ASSERT_LE(plan.pass_outputs * (gated ? 2 : 1), PassRows(plan)) << "n=" << n;
      }
}

TEST(PlanGemv, BlocksTogetherCoverEveryOutputOnce) {
  for (int64_t n = 1; n < 3000; ++n) {
    const GemvPlan plan = PlanGemv(kSms, 1, n, 64, false, false);
    ASSERT_EQ(plan.blocks * plan.block_outputs + plan.larger_blocks, n);
    ASSERT_LT(plan.larger_blocks, plan.blocks);
  }
}

TEST(PlanGemv, GatedTilesSplitIntoHalves) {
  for (int64_t n = 1; n < 5000; ++n)
    ASSERT_EQ(kGemvTiles[PlanGemv(kSms, 1, n, 64, true, false).tile].tiles % 2, 0) << "n=" << n;
}

TEST(PlanGemv, FitsABlockForEveryRowCount) {
  for (const bool gated : {false, true})
    for (int64_t t = 1; t <= kGemvMaxRows; ++t)
      for (const int64_t n : {1, 500, 1000, 2000, 3000, 4608, 5000, 20000, 152064})
        for (const int64_t k : {8, 896, 3584, 8192, 29568}) {
          const bool inside = GemvNormsInside(t, k);
          EXPECT_LE(PlanGemv(kSms, t, n, k, gated, inside).shared_bytes, kSharedBytes)
              << "t=" << t << " n=" << n << " k=" << k;
        }
}

TEST(PlanGemv, NeighboursInALayerShareAMultiprocessorAtBatchOne) {
  // qkv, o, gate_up, down of a 7B and a 72B model; each pair of neighbours, with 1 KB a block that
  // CUDA keeps, fits in the 228 KB of a Hopper multiprocessor.
  struct Layer {
    int64_t qkv, o, d, f;
  };
  for (const Layer& l : {Layer{4608, 3584, 3584, 18944}, Layer{10240, 8192, 8192, 29568}}) {
    const int64_t qkv = PlanGemv(kSms, 1, l.qkv, l.d, false, true).shared_bytes;
    const int64_t o = PlanGemv(kSms, 1, l.d, l.o, false, false).shared_bytes;
    const int64_t gate_up = PlanGemv(kSms, 1, l.f, l.d, true, true).shared_bytes;
    const int64_t down = PlanGemv(kSms, 1, l.d, l.f, false, false).shared_bytes;
    constexpr int64_t kBoth = 226 * 1024;
    EXPECT_LE(o + gate_up, kBoth);
    EXPECT_LE(gate_up + down, kBoth);
    EXPECT_LE(down + qkv, kBoth);
  }
}

TEST(GemvNormsInside, HoldsForOneRowOfEveryModel) {
  for (const int64_t k : {896, 1536, 3584, 8192}) EXPECT_TRUE(GemvNormsInside(1, k));
  EXPECT_FALSE(GemvNormsInside(16, 8192));
}

}  // namespace
}  // namespace tessera
