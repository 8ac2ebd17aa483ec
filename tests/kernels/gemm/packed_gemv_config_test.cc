#include "kernels/gemm/packed_gemv_config.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

constexpr GemvGpu kH200 = {.sm_count = 132, .shared_bytes = 227 * 1024};

TEST(PlanPackedGemv, PassesCoverTheLargestBlock) {
  for (const bool gated : {false, true})
    for (const int64_t t : {1, 8, 9, 16})
      for (int64_t n = 8; n < 60000; n += n < 2000 ? 8 : 1096) {
        const PackedGemvPlan plan =
            PlanPackedGemv(kH200, {.t = t, .n = n, .k = 1024, .gated = gated, .group = 128});
        ASSERT_GE(plan.blocks, 1);
        ASSERT_LE(plan.blocks, kH200.sm_count);
        const int64_t pairs = (n / 2 + plan.blocks - 1) / plan.blocks;
        ASSERT_GE(plan.passes * plan.pass_outputs, 2 * pairs) << "n=" << n;
        ASSERT_LT((plan.passes - 1) * plan.pass_outputs, 2 * pairs) << "n=" << n;
        ASSERT_LE(plan.pass_outputs * (gated ? 2 : 1), 8 * plan.tiles) << "n=" << n;
        ASSERT_LE(plan.tiles, kPackedGemvMaxTiles);
        ASSERT_EQ(plan.pass_outputs % 2, 0);
      }
}

TEST(PlanPackedGemv, BlocksTogetherCoverEveryOutputOnce) {
  for (int64_t n = 8; n < 3000; n += 8) {
    const PackedGemvPlan plan = PlanPackedGemv(kH200, {.t = 1, .n = n, .k = 64, .group = 128});
    ASSERT_EQ(2 * (plan.blocks * plan.block_pairs + plan.larger_blocks), n);
    ASSERT_LT(plan.larger_blocks, plan.blocks);
  }
}

TEST(PlanPackedGemv, FitsABlockForEveryProblem) {
  for (const int bits : {4, 8})
    for (const bool gated : {false, true})
      for (const bool ragged : {false, true})
        for (const bool zeros : {false, true})
          for (const int64_t group : {32, 128})
            for (const int64_t t : {1, 2, 4, 8, 9, 16})
              for (const int64_t n : {8, 896, 4608, 18944, 29568})
                for (const int64_t k : {64, 896, 3584, 8192, 18944, 29568}) {
                  const PackedGemvPlan plan =
                      PlanPackedGemv(kH200, {.t = t,
                                             .n = n,
                                             .k = k,
                                             .gated = gated,
                                             .normed = PackedGemvNormsInside(t, k),
                                             .bits = bits,
                                             .group = group,
                                             .ragged = ragged,
                                             .zeros = zeros});
                  ASSERT_LE(plan.shared_bytes, kH200.shared_bytes)
                      << "t=" << t << " n=" << n << " k=" << k << " bits " << bits;
                  ASSERT_GE(plan.stages, 2);
                  ASSERT_EQ(plan.stage_bytes % 16, 0);
                }
}

TEST(PlanPackedGemv, SmallNeighboursShareAMultiprocessor) {
  // qkv, o and again qkv of a 7B model.
  const PackedGemvProblem qkv = {.t = 1, .n = 4608, .k = 3584, .normed = true, .group = 128};
  const PackedGemvProblem o = {.t = 1, .n = 3584, .k = 3584, .group = 128};
  // Of a multiprocessor, less 1 KB that CUDA keeps for each of two blocks.
  EXPECT_LE(PlanPackedGemv(kH200, qkv).shared_bytes + PlanPackedGemv(kH200, o).shared_bytes,
            226 * 1024);
}

TEST(PlanPackedGemv, GroupOfAChunkByMultiplication) {
  for (const int64_t group : {128, 256, 384, 3584, 18944})
    for (const int64_t k : {3584, 18944, 29568}) {
      const PackedGemvPlan plan = PlanPackedGemv(kH200, {.t = 1, .n = 64, .k = k, .group = group});
      for (uint32_t chunk = 0; chunk < static_cast<uint32_t>(plan.chunks); ++chunk) {
        const uint32_t by = plan.chunks_a_group == 1
                                ? chunk
                                : static_cast<uint32_t>(uint64_t{chunk} * plan.group_magic >> 32);
        ASSERT_EQ(by, chunk / (group / 128)) << "chunk " << chunk << " group " << group;
      }
    }
}

TEST(PackedGemvNormsInside, HoldsForOneRowOfEveryModel) {
  for (const int64_t k : {896, 1536, 3584, 8192}) EXPECT_TRUE(PackedGemvNormsInside(1, k));
  EXPECT_FALSE(PackedGemvNormsInside(16, 8192));
}

}  // namespace
}  // namespace tessera
