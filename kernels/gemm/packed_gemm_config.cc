#include "kernels/gemm/packed_gemm_config.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "common/align.h"

namespace tessera {
namespace {

// Microseconds of a block, fitted to packed_rows_bench of 2026-11-22 (H200, CUDA 13.0, groups of
// 128, t = 16 to 2048): a stage of k; a tile taken whole; a share of a tile; more where shares
// cross borders of tiles; a MB of partial sums. The fit is within 6 % in the mean, 21 % at worst.
struct TileCost {
  PackedTile tile;
  double stage, whole, shared, crossing, add;
};
constexpr TileCost kCosts4[] = {
    {{128, 16}, 0.386, 1.8, 1.6, 1.8, 19.3}, {{256, 16}, 0.695, 1.2, 2.6, 1.9, 9.1},
    {{128, 32}, 0.450, 1.5, 2.2, 1.4, 5.2},  {{256, 32}, 0.791, 1.1, 2.2, 1.5, 12.9},
    {{128, 64}, 0.586, 1.7, 0.1, 2.0, 21.5}, {{256, 64}, 1.067, 0.5, 3.4, 2.3, 7.7},
    {{128, 128}, 0.863, 3.5, 3.1, 3.8, 5.7}, {{128, 256}, 1.508, 2.1, 4.4, 3.5, 14.5}};
constexpr TileCost kCosts8[] = {
    {{128, 16}, 0.471, 0.7, 1.2, 2.1, 62.8}, {{256, 16}, 0.916, 0.0, 1.4, 3.6, 29.9},
    {{128, 32}, 0.547, 0.2, 2.2, 1.3, 15.7}, {{256, 32}, 1.011, 0.0, 0.4, 1.7, 23.5},
    {{128, 64}, 0.716, 0.7, 0.0, 2.2, 20.6}, {{256, 64}, 1.245, 1.0, 1.8, 2.7, 12.5},
    {{128, 128}, 0.982, 0.9, 3.0, 2.0, 6.6}, {{128, 256}, 1.538, 1.3, 3.3, 3.7, 14.0}};
constexpr double kStartUs = 2.5;
constexpr double kLongRunUs = 5;  // more where runs are longer than a tile

static_assert(std::size(kCosts4) == kPackedTiles.size() &&
              std::size(kCosts8) == kPackedTiles.size());

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
      static_cast<double>(CeilDiv(p.tiles() - p.shared_tiles, static_cast<int64_t>(p.blocks)));
  p.us = kStartUs + whole * (static_cast<double>(p.stages) * cost.stage + cost.whole);
  if (p.shared_blocks == 0) return;
  const auto blocks = static_cast<int64_t>(p.shared_blocks);
  const auto run = static_cast<double>(CeilDiv(p.shared_tiles * p.stages, blocks));
  const auto parts = static_cast<double>(CeilDiv(blocks, p.shared_tiles));
  p.us += run * cost.stage + cost.shared + parts * cost.add * 4e-6 * p.tile.rows * p.tile.tokens;
  if (blocks % p.shared_tiles != 0) p.us += cost.crossing;
  if (blocks < p.shared_tiles) p.us += cost.whole + kLongRunUs;
}

}  // namespace

PackedGemmPlan PlanPackedTile(int sm_count, const PackedGemmShape& s, PackedTile tile,
                              int64_t scratch_bytes) {
  PackedGemmPlan whole = {.tile = tile,
                          .row_tiles = CeilDiv(s.rows, static_cast<int64_t>(tile.rows)),
                          .token_tiles = CeilDiv(s.t, static_cast<int64_t>(tile.tokens)),
                          .stages = CeilDiv(s.k, kPackedStageK)};
  whole.blocks = static_cast<int>(std::min<int64_t>(whole.tiles(), sm_count));
  Estimate(s, whole);
  PackedGemmPlan best = whole;
  const auto consider = [&](int64_t tiles, int64_t blocks) {
    PackedGemmPlan p = whole;
    p.shared_tiles = tiles;
    p.shared_blocks = static_cast<int>(std::min(blocks, tiles * p.stages));
    p.blocks = p.shared_tiles == p.tiles() ? p.shared_blocks : sm_count;
    if (p.shared_blocks == tiles || p.scratch_bytes() > scratch_bytes) return;
    Estimate(s, p);
    if (p.us < best.us) best = p;
  };
  const int64_t rest = whole.tiles() % sm_count;
  if (rest == 0) return best;
  // Every tile of the last round in equal parts, the blocks in step with each other.
  for (int64_t parts = 2; parts * rest <= sm_count; ++parts) consider(rest, parts * rest);
  // Runs over borders of tiles: blocks are out of step, so x must stay in L2.
  constexpr int64_t kResidentBytes = int64_t{24} << 20;
  if (2 * s.t * s.k <= kResidentBytes) {
    consider(rest, sm_count);
    if (whole.tiles() > sm_count) consider(rest + sm_count, sm_count);
  }
  return best;
}

PackedGemmPlan PlanPackedGemm(int sm_count, const PackedGemmShape& s, int64_t scratch_bytes) {
  PackedGemmPlan best;
  best.us = std::numeric_limits<double>::infinity();
  for (const PackedTile tile : kPackedTiles) {
    const PackedGemmPlan p = PlanPackedTile(sm_count, s, tile, scratch_bytes);
    if (p.us < best.us) best = p;
  }
  return best;
}

PackedPartsPlan PlanPackedParts(int sm_count, const PackedGemmShape& s, int64_t expanded_bytes) {
  // The library mostly takes tiles of 128 rows by 256 tokens: parts fill rounds of multiprocessors
  // with them, and are few. kLaunchRounds: a part's launches, in rounds.
  constexpr int64_t kTileRows = 128, kTileTokens = 256, kHalfBytes = 2;
  constexpr double kLaunchRounds = 0.1;
  const int64_t fit = expanded_bytes / (s.k * kHalfBytes);
  const int64_t unit = s.gated ? 16 : 8, token_tiles = CeilDiv(s.t, kTileTokens);
  PackedPartsPlan plan = {.rows = std::min(fit / unit * unit, s.rows)};
  if (plan.rows == 0) return plan;
  const auto rounds = [&](int64_t rows) {
    if (rows == 0) return 0.;
    return kLaunchRounds + static_cast<double>(CeilDiv(CeilDiv(rows, kTileRows) * token_tiles,
                                                       static_cast<int64_t>(sm_count)));
  };
  double best = std::numeric_limits<double>::infinity();
  for (int64_t part = kTileRows; part <= fit && plan.rows < s.rows; part += kTileRows) {
    const double all = static_cast<double>(s.rows / part) * rounds(part) + rounds(s.rows % part);
    if (all >= best) continue;
    best = all;
    plan.rows = part;
  }
  // Fitted to packed_rows_bench of 2026-11-22, t = 512 to 4096: within 4 % in the mean, 17 % at
  // worst.
  constexpr double kPartUs = 3.7, kUsPerFlop = 1.45e-9, kUsPerWeight = 1.0e-6;
  constexpr double kUsPerGatedRow = 1.3e-6;
  const auto parts = static_cast<double>(CeilDiv(s.rows, plan.rows));
  const double weights = static_cast<double>(s.rows) * static_cast<double>(s.k);
  const auto t = static_cast<double>(s.t);
  plan.us = parts * kPartUs + weights * (2 * t * kUsPerFlop + kUsPerWeight);
  if (s.gated) plan.us += t * static_cast<double>(s.rows) * kUsPerGatedRow;
  return plan;
}

}  // namespace tessera
