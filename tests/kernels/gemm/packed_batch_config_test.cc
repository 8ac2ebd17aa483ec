#include <array>
#include <cstdint>

#include <gtest/gtest.h>

#include "kernels/gemm/packed_batch.h"

namespace tessera {
namespace {

constexpr GemvGpu kH200 = {.sm_count = 132, .shared_bytes = 232448};

PackedGemvProblem Problem(int64_t t, int64_t n, int64_t k, int bits = 4) {
  return {.t = t, .n = n, .k = k, .bits = bits, .group = 128};
}

TEST(PackedBatch, ServesWhatItIsFasterAt) {
  const auto serves = [](int64_t t, int64_t n, int64_t k, int bits = 4) {
    return PackedBatchServes(Problem(t, n, k, bits));
  };
  EXPECT_FALSE(serves(1, 3584, 18944));
  EXPECT_TRUE(serves(2, 3584, 18944));
  EXPECT_FALSE(serves(2, 8192, 8192));  // an x of 16 K elements
  EXPECT_TRUE(serves(3, 8192, 8192));
  EXPECT_FALSE(serves(8, 896, 896));
  EXPECT_TRUE(serves(9, 8192, 8192));  // more rows than the few-row kernel takes
  EXPECT_TRUE(serves(16, 8192, 8192));
  EXPECT_FALSE(serves(9, 4000, 4992));  // a small W, or one of 8 bits, is the many-row kernel's
  EXPECT_TRUE(serves(9, 4016, 4992));
  EXPECT_TRUE(serves(8, 8192, 8192, 8));
  EXPECT_FALSE(serves(9, 8192, 8192, 8));
  EXPECT_FALSE(serves(17, 8192, 8192));
  EXPECT_FALSE(serves(16, 8192, 0));
  EXPECT_FALSE(serves(16, 0, 8192));
  EXPECT_FALSE(serves(16, 8196, 8192));
  EXPECT_FALSE(serves(16, 8192, 8192 + 32));  // a panel of x that is not whole
  PackedGemvProblem gated = Problem(9, 2008, 4992);
  gated.gated = true;
  EXPECT_TRUE(PackedBatchServes(gated));
  gated.n = 2000;
  EXPECT_FALSE(PackedBatchServes(gated));
}

TEST(PackedBatch, ServesGroupsOfWholeBlocksOnly) {
  const auto serves = [](int bits, int64_t group, bool ragged) {
    PackedGemvProblem p = Problem(8, 8192, 4096, bits);
    p.group = group;
    p.ragged = ragged;
    return PackedBatchServes(p);
  };
  for (const int64_t group : {128, 256, 1 << 20}) {
    EXPECT_TRUE(serves(4, group, false)) << group;
    EXPECT_TRUE(serves(8, group, false)) << group;
  }
  EXPECT_FALSE(serves(4, 64, false));
  EXPECT_TRUE(serves(8, 64, false));
  EXPECT_FALSE(serves(8, 32, false));
  PackedGemvProblem halves = Problem(16, 8192, 4096, 8);
  EXPECT_FALSE(PackedBatchServes(halves));
  halves.group = 64;  // the many-row kernel would round its weights
  EXPECT_TRUE(PackedBatchServes(halves));
  EXPECT_FALSE(serves(8, 128, true));
}

// 112 strips, 28 chunks. By hand: 56 tiles of two strips, eight chunks at a time, so four stages a
// tile, two for each of 112 blocks. A stage: 64 tiles of 512 bytes, 8 chunks of 16 rows of 256
// bytes, 64 scales of 16 bytes. Behind: sums of 14 warps, 32 x 16 floats, and barriers.
TEST(PackedBatch, PlansAMatrixByHand) {
  const PackedBatchPlan plan = PlanPackedBatch(kH200, Problem(16, 3584, 3584));
  EXPECT_EQ(plan.strips, 2);
  EXPECT_EQ(plan.depth, 8);
  EXPECT_EQ(plan.tokens, 16);
  EXPECT_EQ(plan.chunks, 28);
  EXPECT_EQ(plan.rounds, 4);
  EXPECT_EQ(plan.tiles, 56);
  EXPECT_EQ(plan.blocks, 112);
  EXPECT_EQ(plan.x_offset, 32768);
  EXPECT_EQ(plan.scale_offset, 32768 + 32768);
  EXPECT_EQ(plan.stage_bytes, 32768 + 32768 + 1024);
  EXPECT_EQ(plan.stages, 3);
  EXPECT_EQ(plan.shared_bytes, 3 * 66560 + 14 * 2048 + 8 * 16);
  EXPECT_EQ(plan.scratch_bytes, 112 * 2 * 2048);
}

TEST(PackedBatch, GroupOfAChunkByMultiplication) {
  for (const int bits : {4, 8})
    for (const int64_t group : {128, 256, 384, 3584, 1 << 20}) {
      PackedGemvProblem problem = Problem(16, 64, 29568, bits);
      problem.group = group;
      const PackedBatchPlan plan = PlanPackedBatch(kH200, problem);
      for (uint32_t chunk = 0; chunk < static_cast<uint32_t>(plan.chunks); ++chunk) {
        const uint32_t by = plan.groups.chunks_a_group == 1
                                ? chunk
                                : static_cast<uint32_t>(uint64_t{chunk} * plan.groups.magic >> 32);
        ASSERT_EQ(by, chunk / (group * bits / 512)) << "chunk " << chunk << " group " << group;
      }
    }
}

TEST(PackedBatch, PlansOfAllShapesFit) {
  for (const auto& [n, k] : {std::array<int64_t, 2>{8, 64},
                             {4608, 3584},
                             {37888, 3584},
                             {3584, 18944},
                             {8192, 29568},
                             {59136, 8192},
                             {1152, 896},
                             {151936, 896},
                             {8192, 2048},
                             {104, 262144}})
    for (const int bits : {4, 8})
      for (const bool zeros : {false, true})
        for (const bool gated : {false, true})
          for (const int64_t t : {2, 8, 9, 16})
            for (const int strips : {0, 1, 2, 4, 8, 16}) {
              PackedGemvProblem problem = Problem(t, gated ? n / 2 / 8 * 8 : n, k, bits);
              if (problem.n == 0) continue;
              problem.zeros = zeros;
              problem.gated = gated;
              SCOPED_TRACE(::testing::Message() << "t=" << t << " n=" << n << " k=" << k
                                                << " bits=" << bits << " strips=" << strips);
              const PackedBatchPlan plan = PlanPackedBatch(kH200, problem, strips);
              ASSERT_GT(plan.strips, 0);
              EXPECT_EQ(plan.strips * plan.depth, kPackedBatchWarps);
              EXPECT_GE(int64_t{plan.tiles} * plan.strips * 32, problem.n * (gated ? 2 : 1));
              EXPECT_GE(plan.rounds * plan.depth, plan.chunks);
              EXPECT_LT((plan.rounds - 1) * plan.depth, plan.chunks);
              EXPECT_GT(plan.blocks, 0);
              EXPECT_LE(plan.blocks, kH200.sm_count);
              EXPECT_LE(plan.blocks, int64_t{plan.tiles} * plan.rounds);
              // Products of units and blocks are taken in 32 bits.
              EXPECT_LT(int64_t{plan.tiles} * plan.rounds * plan.blocks, int64_t{1} << 31);
              EXPECT_GE(plan.stages, 2);
              EXPECT_EQ(plan.stage_bytes % 1024, 0);
              EXPECT_EQ(plan.x_offset % 1024, 0);
              EXPECT_LE(plan.shared_bytes, kH200.shared_bytes);
              EXPECT_GE(plan.stage_bytes, plan.zero_offset + (zeros ? 512 : 0));
              EXPECT_LE(plan.scratch_bytes, int64_t{72} << 20);  // linear_config.cc's
            }
}

TEST(PackedBatch, ASmallGpuHasNoPlan) {
  EXPECT_EQ(
      PlanPackedBatch({.sm_count = 132, .shared_bytes = 64 * 1024}, Problem(16, 4096, 4096)).strips,
      0);
  EXPECT_EQ(
      PlanPackedBatch({.sm_count = 300, .shared_bytes = 232448}, Problem(16, 4096, 4096)).strips,
      0);
}

}  // namespace
}  // namespace tessera
