// How the many-row packed product is cut over a GPU of compute capability 9.0. Pure host functions.
#pragma once

#include <array>
#include <cstdint>

namespace tessera {

constexpr int64_t kPackedStageK = 128;  // of k: what a block multiplies at a time

// The outputs of a block at a time: rows of W by tokens.
struct PackedTile {
  int rows = 0, tokens = 0;

  friend bool operator==(const PackedTile&, const PackedTile&) = default;
};

// Tiles the kernel is built for.
inline constexpr std::array<PackedTile, 8> kPackedTiles = {
    {{128, 16}, {256, 16}, {128, 32}, {256, 32}, {128, 64}, {256, 64}, {128, 128}, {128, 256}}};

// Tiles of up to so many tokens multiply q - zero, where a stage has one group, and scale its sums
// in fp32; others multiply weights rounded to 16 bits.
inline constexpr int kPackedScaledTokens = 128;

struct PackedGemmShape {
  int bits = 4;
  int64_t t = 0, rows = 0, k = 0;  // rows of W: twice the outputs when gated
  bool gated = false;
};

// Tiles [0, shared_tiles) are laid end to end and cut into `shared_blocks` runs of equal k, whose
// blocks add up in the order of k; the others are taken whole, block i every `blocks`-th.
struct PackedGemmPlan {
  PackedTile tile;
  int64_t row_tiles = 0, token_tiles = 0;
  int64_t stages = 0;  // of kPackedStageK in a tile
  int64_t shared_tiles = 0;
  int shared_blocks = 0, blocks = 0;
  double us = 0;  // estimate

  int64_t tiles() const { return row_tiles * token_tiles; }
  // Partial sums, fp32, a tile for each sharing block.
  int64_t scratch_bytes() const { return int64_t{4} * shared_blocks * tile.rows * tile.tokens; }
};

// The plan of the least estimated time whose scratch fits in scratch_bytes. t, rows and k are
// positive. A function of its arguments only: equal shapes give equal bits.
PackedGemmPlan PlanPackedGemm(int sm_count, const PackedGemmShape& shape, int64_t scratch_bytes);

// The best of that tile.
PackedGemmPlan PlanPackedTile(int sm_count, const PackedGemmShape& shape, PackedTile tile,
                              int64_t scratch_bytes);

// The other way: rows of W expanded to 16 bits, in parts that fit, and multiplied by the library.
struct PackedPartsPlan {
  int64_t rows = 0;  // of W in a part, in eights (gated: sixteens), but for the last; 0: none fit
  double us = 0;     // estimate, from t = kPackedPartsMinRows on
};
inline constexpr int64_t kPackedPartsMinRows = 512;

PackedPartsPlan PlanPackedParts(int sm_count, const PackedGemmShape& shape, int64_t expanded_bytes);

}  // namespace tessera
