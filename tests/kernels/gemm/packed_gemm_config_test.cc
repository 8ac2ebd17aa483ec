#include "kernels/gemm/packed_gemm_config.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

constexpr int kSms = 132;
constexpr int64_t kScratch = int64_t{32} << 20;

const PackedGemmShape kShapes[] = {
    {4, 9, 3584, 3584},    {8, 16, 59136, 8192},   {4, 17, 8, 16},         {4, 64, 3584, 3584},
    {8, 64, 37888, 3584},  {4, 33, 4608, 3584},    {4, 128, 3584, 18944},  {8, 257, 4608, 3584},
    {4, 4096, 3584, 3584}, {4, 4096, 8192, 29568}, {8, 1000, 59136, 8192}, {4, 65536, 28672, 4096}};

TEST(PackedGemmConfig, TilesCoverRowsTokensAndK) {
  for (const PackedGemmShape& s : kShapes) {
    const PackedGemmPlan p = PlanPackedGemm(kSms, s, kScratch);
    EXPECT_GE(p.row_tiles * p.tile.rows, s.rows);
    EXPECT_LT((p.row_tiles - 1) * p.tile.rows, s.rows);
    EXPECT_GE(p.token_tiles * p.tile.tokens, s.t);
    EXPECT_LT((p.token_tiles - 1) * p.tile.tokens, s.t);
    EXPECT_GE(p.stages * kPackedStageK, s.k);
  }
}

TEST(PackedGemmConfig, BlocksFitTheGpuAndScratchItsLimit) {
  for (const PackedGemmShape& s : kShapes)
    for (const int sms : {1, 3, 108, 132})
      for (const int64_t scratch : {int64_t{0}, int64_t{1} << 20, kScratch}) {
        const PackedGemmPlan p = PlanPackedGemm(sms, s, scratch);
        EXPECT_GE(p.blocks, 1);
        EXPECT_LE(p.blocks, sms);
        EXPECT_LE(p.shared_blocks, p.blocks);
        EXPECT_LE(p.scratch_bytes(), scratch);
      }
}

TEST(PackedGemmConfig, EverySharingBlockHasWorkAndWholeTilesFillTheirRounds) {
  for (const PackedGemmShape& s : kShapes) {
    const PackedGemmPlan p = PlanPackedGemm(kSms, s, kScratch);
    EXPECT_LE(p.shared_tiles, p.tiles());
    EXPECT_LE(p.shared_blocks, p.shared_tiles * p.stages);
    EXPECT_EQ(p.shared_tiles == 0, p.shared_blocks == 0);
    EXPECT_TRUE(p.shared_tiles == 0 || (p.tiles() - p.shared_tiles) % kSms == 0);
  }
}

TEST(PackedGemmConfig, FewTilesAreSharedAmongBlocks) {
  const PackedGemmPlan p = PlanPackedGemm(kSms, {4, 64, 3584, 3584}, kScratch);
  EXPECT_GT(p.shared_blocks, kSms / 2);
}

// 144 tiles on 132 multiprocessors: in runs of 1.1 tiles rather than in two rounds.
TEST(PackedGemmConfig, TilesLittleMoreThanARoundAreSharedByIt) {
  const PackedGemmPlan p = PlanPackedTile(kSms, {4, 1024, 4608, 3584}, {128, 256}, kScratch);
  EXPECT_EQ(p.tiles(), 144);
  EXPECT_EQ(p.shared_tiles, 144);
  EXPECT_EQ(p.shared_blocks, kSms);
}

TEST(PackedGemmConfig, PartsFitTheirMemory) {
  for (const PackedGemmShape& s : kShapes)
    for (const int64_t bytes : {int64_t{1} << 20, int64_t{63} << 20}) {
      const PackedPartsPlan p = PlanPackedParts(kSms, s, bytes);
      EXPECT_LE(p.rows * s.k * 2, bytes);
      EXPECT_TRUE(p.rows % 8 == 0 || p.rows == s.rows) << p.rows;
    }
}

TEST(PackedGemmConfig, PartsOfGatedRowsHaveAsManyGateRowsAsUpRows) {
  PackedGemmShape s = {4, 4096, 37888, 3584};
  s.gated = true;
  EXPECT_EQ(PlanPackedParts(kSms, s, int64_t{63} << 20).rows % 16, 0);
  EXPECT_EQ(PlanPackedParts(kSms, s, int64_t{16} * 3584 * 2).rows, 16);
}

TEST(PackedGemmConfig, NoPartsWithoutMemoryForOne) {
  EXPECT_EQ(PlanPackedParts(kSms, {4, 4096, 3584, 3584}, int64_t{7} * 3584 * 2).rows, 0);
}

}  // namespace
}  // namespace tessera
