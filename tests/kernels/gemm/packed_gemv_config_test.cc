#include "kernels/gemm/packed_gemv_config.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

constexpr GemvGpu kH200 = {.sm_count = 132, .shared_bytes = 227 * 1024};

TEST(PlanPackedGemv, StripsCoverTheLargestBlock) {
  for (const bool gated : {false, true})
    for (const int64_t t : {1, 8})
      for (int64_t n = 8; n < 60000; n += n < 2000 ? 8 : 1096) {
        const PackedGemvPlan plan =
            PlanPackedGemv(kH200, {.t = t, .n = n, .k = 1024, .gated = gated, .group = 128});
        ASSERT_GE(plan.blocks, 1);
        ASSERT_LE(plan.blocks, kH200.sm_count);
        const int64_t tiles = (n / 8 + plan.blocks - 1) / plan.blocks;
        ASSERT_GE(plan.strips * plan.strip_tiles, tiles) << "n=" << n;
        ASSERT_LT((plan.strips - 1) * plan.strip_tiles, tiles) << "n=" << n;
        ASSERT_LE(plan.strip_tiles * (gated ? 2 : 1), 2 * kPackedGemvPairs) << "n=" << n;
        ASSERT_GE(plan.sum_slots, 1);
        ASSERT_LE(plan.sum_slots, plan.strips);
      }
}

TEST(PlanPackedGemv, BlocksTogetherCoverEveryTileOnce) {
  for (int64_t n = 8; n < 3000; n += 8) {
    const PackedGemvPlan plan = PlanPackedGemv(kH200, {.t = 1, .n = n, .k = 64, .group = 128});
    ASSERT_EQ(8 * (plan.blocks * plan.block_tiles + plan.larger_blocks), n);
    ASSERT_LT(plan.larger_blocks, plan.blocks);
  }
}

TEST(PlanPackedGemv, RoundsCoverK) {
  for (const int bits : {4, 8})
    for (int64_t k = 16; k < 40000; k += k < 3000 ? 16 : 2192) {
      const PackedGemvPlan plan =
          PlanPackedGemv(kH200, {.t = 1, .n = 4096, .k = k, .bits = bits, .group = 128});
      const int64_t block = bits == 4 ? 128 : 64;
      ASSERT_EQ(plan.chunks, (k + block - 1) / block);
      ASSERT_GE(plan.rounds * kPackedGemvWarps, plan.chunks);
      ASSERT_LT((plan.rounds - 1) * kPackedGemvWarps, plan.chunks);
    }
}

TEST(PlanPackedGemv, FitsABlockForEveryProblemItServes) {
  for (const int bits : {4, 8})
    for (const bool gated : {false, true})
      for (const bool ragged : {false, true})
        for (const bool zeros : {false, true})
          for (const int64_t group : {32, 128})
            for (const int64_t t : {1, 2, 4, 8})
              for (const int64_t n : {8, 896, 4608, 18944, 29568})
                for (const int64_t k : {64, 896, 3584, 8192, 18944, 29568}) {
                  const PackedGemvProblem problem = {.t = t,
                                                     .n = n,
                                                     .k = k,
                                                     .gated = gated,
                                                     .normed = k <= 8192,
                                                     .bits = bits,
                                                     .group = group,
                                                     .ragged = ragged,
                                                     .zeros = zeros};
                  if (!PackedGemvServes(problem)) continue;
                  const PackedGemvPlan plan = PlanPackedGemv(kH200, problem);
                  ASSERT_LE(plan.shared_bytes, kH200.shared_bytes)
                      << "t=" << t << " n=" << n << " k=" << k << " bits " << bits;
                  ASSERT_GE(plan.stages, 1);
                  ASSERT_LE(plan.early_stages, plan.stages);
                  ASSERT_EQ(plan.stage_bytes % 128, 0);
                  ASSERT_EQ(plan.zero_offset % 16, 0);
                }
}

// GPUs with less shared memory: a plan fits where one stage would.
TEST(PlanPackedGemv, TakesFewerStagesWhereABlockHasLess) {
  for (const GemvGpu& gpu : {GemvGpu{.sm_count = 128, .shared_bytes = 99 * 1024},
                             GemvGpu{.sm_count = 108, .shared_bytes = 163 * 1024}})
    for (const bool gated : {false, true})
      for (const int64_t n : {8, 1152, 4608, 8960})
        for (const int64_t k : {896, 3584, 4096, 8192, 18944}) {
          const PackedGemvPlan plan =
              PlanPackedGemv(gpu, {.t = 1, .n = n, .k = k, .gated = gated, .group = 128});
          EXPECT_TRUE(plan.shared_bytes <= gpu.shared_bytes || plan.stages == 1)
              << gpu.shared_bytes << " bytes, n=" << n << " k=" << k;
        }
  EXPECT_LE(PlanPackedGemv({.sm_count = 128, .shared_bytes = 99 * 1024},
                           {.t = 1, .n = 4608, .k = 3584, .normed = true, .group = 128})
                .shared_bytes,
            99 * 1024);
}

TEST(PlanPackedGemv, SmallNeighboursShareAMultiprocessor) {
  // qkv, o and again qkv of a 7B model.
  const PackedGemvPlan qkv =
      PlanPackedGemv(kH200, {.t = 1, .n = 4608, .k = 3584, .normed = true, .group = 128});
  const PackedGemvPlan o = PlanPackedGemv(kH200, {.t = 1, .n = 3584, .k = 3584, .group = 128});
  EXPECT_EQ(qkv.form, PackedGemvForm::kSmall);
  EXPECT_EQ(o.form, PackedGemvForm::kSmall);
  // Of a multiprocessor, less 1 KB that CUDA keeps for each of the blocks.
  EXPECT_LE(2 * o.shared_bytes, 226 * 1024);
  EXPECT_LE(qkv.shared_bytes + o.shared_bytes, 226 * 1024);
}

TEST(PlanPackedGemv, LargeWeightsAndLongKTakeAWholeMultiprocessor) {
  EXPECT_EQ(PlanPackedGemv(kH200, {.t = 1, .n = 8192, .k = 8192, .group = 128}).form,
            PackedGemvForm::kLarge);
  EXPECT_EQ(PlanPackedGemv(kH200, {.t = 1, .n = 896, .k = 4864, .group = 128}).form,
            PackedGemvForm::kLarge);
}

TEST(PlanPackedGemv, GroupOfAChunkByMultiplication) {
  for (const int64_t group : {128, 256, 384, 3584, 18944})
    for (const int64_t k : {3584, 18944, 29568}) {
      const PackedGemvPlan plan = PlanPackedGemv(kH200, {.t = 1, .n = 64, .k = k, .group = group});
      for (uint32_t chunk = 0; chunk < static_cast<uint32_t>(plan.chunks); ++chunk) {
        const uint32_t by = plan.groups.chunks_a_group == 1
                                ? chunk
                                : static_cast<uint32_t>(uint64_t{chunk} * plan.groups.magic >> 32);
        ASSERT_EQ(by, chunk / (group / 128)) << "chunk " << chunk << " group " << group;
      }
    }
}

// k that ends inside a block of 64 bytes included: its last chunk has the group's scales too.
TEST(PlanPackedGemv, OneGroupOfAllKIsOneRowOfScales) {
  for (const int bits : {4, 8})
    for (const int64_t k : {16, 48, 80, 112, 128, 160, 464, 896, 3600})
      for (const int64_t group : {k, int64_t{1} << 20}) {
        const PackedGemvPlan plan =
            PlanPackedGemv(kH200, {.t = 1, .n = 64, .k = k, .bits = bits, .group = group});
        EXPECT_EQ(plan.segment, PackedSegment::kBlock) << "k " << k << " group " << group;
        EXPECT_EQ(plan.chunk_rows, 1);
        const bool all_of_row_0 =
            plan.chunks == 1 || plan.groups.chunks_a_group >= static_cast<uint32_t>(plan.chunks);
        EXPECT_TRUE(all_of_row_0) << "k " << k << " group " << group << " bits " << bits;
      }
}

TEST(PackedGemvServes, FewRowsWhoseXFits) {
  EXPECT_TRUE(PackedGemvServes({.t = 1, .n = 8192, .k = 29568}));
  EXPECT_TRUE(PackedGemvServes({.t = 8, .n = 3584, .k = 3584}));
  EXPECT_FALSE(PackedGemvServes({.t = 9, .n = 3584, .k = 3584}));
  EXPECT_FALSE(PackedGemvServes({.t = 8, .n = 3584, .k = 18944}));
  EXPECT_FALSE(PackedGemvServes({.t = 1, .n = 12, .k = 3584}));
  EXPECT_FALSE(PackedGemvServes({.t = 0, .n = 8, .k = 3584}));
}

}  // namespace
}  // namespace tessera
