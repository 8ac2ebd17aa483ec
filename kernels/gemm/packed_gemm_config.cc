#include "kernels/gemm/packed_gemm_config.h"

#include <algorithm>
#include <limits>

#include "common/align.h"

namespace tessera {
namespace {

// Microseconds of a block, fitted to packed_rows_bench of 2026-11-20 (H200, CUDA 13.0, groups of
// 128, t = 17 to 4096): a stage of k, a tile taken whole, and a tile shared beside kAddUs. The fit
// is within 7 % in the mean, 17 % at worst.
struct TileCost {
  PackedTile tile;
  double stage, whole, shared;
};
constexpr TileCost kCosts4[] = {{{128, 32}, 0.25, 3., 3.},    {{256, 32}, 0.40, 3., 3.},
                                {{128, 64}, 0.35, 3., 3.},    {{256, 64}, 0.65, 3., 3.},
                                {{128, 128}, 0.70, 4., 4.},   {{256, 128}, 1.30, 4., 4.},
                                {{256, 256, 2}, 1.30, 4., 8.}};
constexpr TileCost kCosts8[] = {{{128, 32}, 0.35, 3., 3.},    {{256, 32}, 0.60, 3., 3.},
                                {{128, 64}, 0.40, 3., 3.},    {{256, 64}, 0.80, 3., 3.},
                                {{128, 128}, 0.75, 4., 4.},   {{256, 128}, 1.45, 4., 4.},
                                {{256, 256, 2}, 1.40, 4., 8.}};
constexpr double kStartUs = 2.5, kAddUsPerByte = 1e-5;

// tile is one of kPackedTiles.
const TileCost& CostOf(int bits, PackedTile tile) {
  const auto* const costs = bits == 4 ? kCosts4 : kCosts8;
  return *std::find_if(costs, costs + kPackedTiles.size() - 1,
                       [&](const TileCost& cost) { return cost.tile == tile; });
}

// A block takes its run of shared tiles, then whole tiles.
void Estimate(const PackedGemmShape& s, PackedGemmPlan& p) {
  const TileCost& cost = CostOf(s.bits, p.tile);
  const auto whole =
      static_cast<double>(CeilDiv(p.tiles() - p.shared_tiles, static_cast<int64_t>(p.teams)));
  p.us = kStartUs + whole * (static_cast<double>(p.stages) * cost.stage + cost.whole);
  if (p.shared_teams == 0) return;
  const auto blocks = static_cast<int64_t>(p.shared_teams);
  const auto run = static_cast<double>(CeilDiv(p.shared_tiles * p.stages, blocks));
  const auto parts = static_cast<double>(CeilDiv(blocks, p.shared_tiles));
  p.us += run * cost.stage + cost.shared + kAddUsPerByte * parts * 4. * p.tile.rows * p.tile.tokens;
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
