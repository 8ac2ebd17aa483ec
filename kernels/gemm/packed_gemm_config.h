// How the many-row packed product is cut over a GPU of compute capability 9.0. Pure host functions.
#pragma once

#include <array>
#include <cstdint>

namespace tessera {

constexpr int64_t kPackedStageK = 128;  // of k: what a block multiplies at a time

// The outputs of a team of blocks at a time: rows of W by tokens. The blocks of a team have equal
// parts of the rows and share the tokens' x.
struct PackedTile {
  int rows = 0, tokens = 0;
  int blocks = 1;  // of the team

  friend bool operator==(const PackedTile&, const PackedTile&) = default;
};

// Tiles the kernel is built for.
inline constexpr std::array<PackedTile, 7> kPackedTiles = {
    {{128, 32}, {256, 32}, {128, 64}, {256, 64}, {128, 128}, {256, 128}, {512, 128, 2}}};

struct PackedGemmShape {
  int bits = 4;
  int64_t t = 0, rows = 0, k = 0;  // rows of W: twice the outputs when gated
};

// Tiles [0, shared_tiles) are laid end to end and cut into `shared_teams` runs of equal k, whose
// teams add up in the order of k; the others are taken whole, team i every `teams`-th.
struct PackedGemmPlan {
  PackedTile tile;
  int64_t row_tiles = 0, token_tiles = 0;
  int64_t stages = 0;  // of kPackedStageK in a tile
  int64_t shared_tiles = 0;
  int shared_teams = 0, teams = 0;
  double us = 0;  // estimate

  int64_t tiles() const { return row_tiles * token_tiles; }
  // Partial sums, fp32, a tile for each sharing team.
  int64_t scratch_bytes() const { return int64_t{4} * shared_teams * tile.rows * tile.tokens; }
};

// The plan of the least estimated time whose scratch fits in scratch_bytes. t, rows and k are
// positive. A function of its arguments only: equal shapes give equal bits.
PackedGemmPlan PlanPackedGemm(int sm_count, const PackedGemmShape& shape, int64_t scratch_bytes);

// The best of that tile.
PackedGemmPlan PlanPackedTile(int sm_count, const PackedGemmShape& shape, PackedTile tile,
                              int64_t scratch_bytes);

}  // namespace tessera
