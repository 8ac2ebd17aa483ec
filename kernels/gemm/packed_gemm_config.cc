#include "kernels/gemm/packed_gemm_config.h"

#include <algorithm>
#include <limits>

#include "common/align.h"

namespace tessera {
namespace {

// Microseconds of a team, fitted to packed_rows_bench of 2026-11-21 (H200, CUDA 13.0, groups of
// 128, t = 32 to 4096): a stage of k; a tile taken whole; a share of a tile; more where shares
// cross borders of tiles; a MB of partial sums. The fit is within 5 % in the mean, 20 % at worst.
struct TileCost {
  PackedTile tile;
  double stage, whole, shared, crossing, add;
};
constexpr TileCost kCosts4[] = {
    {{128, 32}, 0.577, 3.0, 2.0, 3.9, 0.0},     {{256, 32}, 0.962, 2.6, 4.3, 3.0, 6.5},
    {{128, 64}, 0.641, 3.9, 4.3, 2.9, 0.0},     {{256, 64}, 1.176, 3.1, 3.2, 3.6, 11.5},
    {{128, 128}, 0.905, 8.2, 3.9, 6.9, 9.2},    {{256, 128}, 1.658, 5.7, 3.8, 4.3, 12.5},
    {{512, 128, 2}, 1.650, 5.7, 6.0, 4.3, 12.5}};
constexpr TileCost kCosts8[] = {
    {{128, 32}, 0.668, 1.5, 3.0, 3.2, 5.3},    {{256, 32}, 1.238, 0.3, 3.4, 1.9, 13.4},
    {{128, 64}, 0.793, 1.9, 1.6, 3.7, 14.1},   {{256, 64}, 1.467, 0.7, 4.7, 1.8, 8.0},
    {{128, 128}, 1.128, 5.3, 7.2, 3.2, 8.7},   {{256, 128}, 2.023, 1.9, 7.0, 2.0, 9.4},
    {{512, 128, 2}, 2.000, 1.9, 7.0, 2.0, 9.4}};
constexpr double kStartUs = 2.5;

// tile is one of kPackedTiles.
const TileCost& CostOf(int bits, PackedTile tile) {
  const auto* const costs = bits == 4 ? kCosts4 : kCosts8;
  return *std::find_if(costs, costs + kPackedTiles.size() - 1,
                       [&](const TileCost& cost) { return cost.tile == tile; });
}

// A team takes its run of shared tiles, then whole tiles.
void Estimate(const PackedGemmShape& s, PackedGemmPlan& p) {
  const TileCost& cost = CostOf(s.bits, p.tile);
  const auto whole =
      static_cast<double>(CeilDiv(p.tiles() - p.shared_tiles, static_cast<int64_t>(p.teams)));
  p.us = kStartUs + whole * (static_cast<double>(p.stages) * cost.stage + cost.whole);
  if (p.shared_teams == 0) return;
  const auto teams = static_cast<int64_t>(p.shared_teams);
  const auto run = static_cast<double>(CeilDiv(p.shared_tiles * p.stages, teams));
  const auto parts = static_cast<double>(CeilDiv(teams, p.shared_tiles));
  p.us += run * cost.stage + cost.shared + parts * cost.add * 4e-6 * p.tile.rows * p.tile.tokens;
  if (teams % p.shared_tiles != 0) p.us += cost.crossing;
}

}  // namespace

PackedGemmPlan PlanPackedTile(int sm_count, const PackedGemmShape& s, PackedTile tile,
                              int64_t scratch_bytes) {
  const int most = std::max(1, sm_count / tile.blocks);
  PackedGemmPlan whole = {.tile = tile,
                          .row_tiles = CeilDiv(s.rows, static_cast<int64_t>(tile.rows)),
                          .token_tiles = CeilDiv(s.t, static_cast<int64_t>(tile.tokens)),
                          .stages = CeilDiv(s.k, kPackedStageK)};
  whole.teams = static_cast<int>(std::min<int64_t>(whole.tiles(), most));
  Estimate(s, whole);
  PackedGemmPlan best = whole;
  const auto consider = [&](int64_t tiles, int64_t teams) {
    PackedGemmPlan p = whole;
    p.shared_tiles = tiles;
    p.shared_teams = static_cast<int>(std::min(teams, tiles * p.stages));
    p.teams = p.shared_tiles == p.tiles() ? p.shared_teams : most;
    if (p.shared_teams <= tiles || p.scratch_bytes() > scratch_bytes) return;
    Estimate(s, p);
    if (p.us < best.us) best = p;
  };
  const int64_t rest = whole.tiles() % most;
  if (rest == 0) return best;
  // Every tile of the last round in equal parts, the blocks in step with each other.
  for (int64_t parts = 2; parts * rest <= most; ++parts) consider(rest, parts * rest);
  // Runs over borders of tiles: blocks are out of step, so x must stay in L2.
  constexpr int64_t kResidentBytes = int64_t{24} << 20;
  if (2 * s.t * s.k <= kResidentBytes) {
    consider(rest, most);
    if (whole.tiles() > most) consider(rest + most, most);
  }
  return best;
}

PackedGemmPlan PlanPackedGemm(int sm_count, const PackedGemmShape& s, int64_t scratch_bytes) {
  PackedGemmPlan best;
  best.us = std::numeric_limits<double>::infinity();
  for (const PackedTile tile : kPackedTiles) {
    if (tile.blocks > sm_count) continue;
    const PackedGemmPlan p = PlanPackedTile(sm_count, s, tile, scratch_bytes);
    if (p.us < best.us) best = p;
  }
  return best;
}

}  // namespace tessera
