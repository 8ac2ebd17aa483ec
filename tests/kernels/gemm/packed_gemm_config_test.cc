#include "kernels/gemm/packed_gemm_config.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

constexpr int kSms = 132;
constexpr int64_t kScratch = int64_t{32} << 20;

const PackedGemmShape kShapes[] = {
    {4, 17, 8, 16},         {4, 64, 3584, 3584},    {8, 64, 37888, 3584},  {4, 33, 4608, 3584},
    {4, 128, 3584, 18944},  {8, 257, 4608, 3584},   {4, 4096, 3584, 3584}, {4, 4096, 8192, 29568},
    {8, 1000, 59136, 8192}, {4, 65536, 28672, 4096}};

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
        EXPECT_GE(p.teams, 1);
        EXPECT_LE(p.teams * p.tile.blocks, sms);
        EXPECT_LE(p.shared_teams, p.teams);
        EXPECT_LE(p.scratch_bytes(), scratch);
      }
}

TEST(PackedGemmConfig, EverySharingTeamHasWorkAndWholeTilesFillTheirRounds) {
  for (const PackedGemmShape& s : kShapes) {
    const PackedGemmPlan p = PlanPackedGemm(kSms, s, kScratch);
    EXPECT_LE(p.shared_tiles, p.tiles());
    EXPECT_LE(p.shared_teams, p.shared_tiles * p.stages);
    EXPECT_EQ(p.shared_tiles == 0, p.shared_teams == 0);
    EXPECT_TRUE(p.shared_tiles == 0 || (p.tiles() - p.shared_tiles) % (kSms / p.tile.blocks) == 0);
  }
}

TEST(PackedGemmConfig, FewTilesAreSharedAmongTeams) {
  const PackedGemmPlan p = PlanPackedGemm(kSms, {4, 64, 3584, 3584}, kScratch);
  EXPECT_GT(p.shared_teams, kSms / 2);
}

}  // namespace
}  // namespace tessera
