#include "kernels/gemm/gemv_config.h"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

constexpr int64_t kTileRows = 8;      // rows of w that one tensor core product takes
constexpr int64_t kPieceK = 32;       // k that a warp's 16-byte loads cover in one row
constexpr int64_t kPieceBytes = 512;  // a warp's 16-byte loads
constexpr int64_t kResidentBytes = 24 * 1024;
constexpr int64_t kHalfBytes = 2, kFloatBytes = 4;
constexpr int64_t kMaxSharedBytes = 227 * 1024;  // of a block, Hopper
constexpr int64_t kMaxGroup = 8, kMaxGroupBytes = 10 * 1024;
#ifndef TESSERA_PREFETCH
#define TESSERA_PREFETCH 0
#endif
constexpr int64_t kPrefetchBytes = TESSERA_PREFETCH * 1024;
constexpr int kWideTile = kGemvTileCount - 1;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of x start 64 bytes apart modulo 128, so that the eight rows a load touches lie in different
// banks.
int64_t ResidentStride(int64_t k) { return CeilDiv(k * kHalfBytes, 128) * 128 + 64; }

// Outputs of a pass: a gated output takes two rows of w.
int64_t PassOutputs(const GemvTile& tile, bool gated) {
  return tile.tiles * kTileRows / (gated ? 2 : 1);
}

int64_t RowFloats(const GemvTile& tile, int64_t group) {
  return (tile.tiles * group + 1) * kTileRows;
}

int64_t PartialBytes(const GemvTile& tile, int64_t t, int64_t group) {
  return 2 * kGemvWarps * t * RowFloats(tile, group) * kFloatBytes;
}

int64_t SharedBytes(const GemvTile& tile, int64_t t, int64_t k, int64_t group, bool x_resident) {
  // A streamed stage also holds its piece of x: 4 lanes of 16 bytes a row.
  const int64_t x_stage = x_resident ? 0 : tile.k_pieces * kPieceK * kHalfBytes * t;
  const int64_t stage = tile.tiles * tile.k_pieces * kPieceBytes + x_stage;
  return kGemvWarps * tile.stages * stage + PartialBytes(tile, t, group) +
         (x_resident ? t * ResidentStride(k) : 0);
}

// The tile whose slots are fullest, since empty slots of the ring are bytes not in flight; the
// larger one of equals. More than 8 rows of x stream past every pass, which then should be wide.
int ChooseTile(int64_t t, int64_t block_outputs, int64_t k, bool gated, bool x_resident) {
  if (t > 8 && block_outputs >= PassOutputs(kGemvTiles[kWideTile], gated)) return kWideTile;
  int best = kWideTile;
  double best_fill = 0;
  for (int i = 0; i < kWideTile; ++i) {
    const GemvTile& tile = kGemvTiles[i];
    if (gated && tile.tiles % 2 != 0) continue;
#ifdef TESSERA_NO5
    if (tile.tiles == 5) continue;
#endif
    if (SharedBytes(tile, t, k, 1, x_resident) > kMaxSharedBytes) continue;
    const int64_t room = PassOutputs(tile, gated);
    const double fill = static_cast<double>(block_outputs) /
                        static_cast<double>(CeilDiv(block_outputs, room) * room);
    if (fill >= best_fill - 1e-3) {
      best = i;
      best_fill = std::max(fill, best_fill);
    }
  }
  return best;
}

// Passes between barriers: at a barrier every warp waits for those that had one chunk of k more, so
// the chunks of a group should divide over the warps. The fewest that come near the best.
int64_t ChooseGroup(const GemvTile& tile, int64_t t, int64_t k, int64_t passes) {
  const int64_t chunks = CeilDiv(k, tile.k_pieces * kPieceK);
  int64_t best = 1;
  double best_fill = 0;
  for (int64_t group = 1; group <= std::min(passes, kMaxGroup); ++group) {
    if (group > 1 && PartialBytes(tile, t, group) > kMaxGroupBytes) break;
    const double share = static_cast<double>(group * chunks) / kGemvWarps;
    const double fill = share / std::ceil(share);
    if (fill > best_fill + 0.02) {
      best = group;
      best_fill = fill;
    }
  }
  return best;
}

}  // namespace

bool GemvNormsInside(int64_t t, int64_t k) { return t * ResidentStride(k) <= kResidentBytes; }

GemvPlan PlanGemv(int sm_count, int64_t t, int64_t n, int64_t k, bool gated, bool normed) {
  GemvPlan plan;
  plan.blocks = static_cast<int>(std::min<int64_t>(sm_count, n));
  plan.block_outputs = n / plan.blocks;
  plan.larger_blocks = n % plan.blocks;
  const int64_t most_outputs = CeilDiv(n, plan.blocks);
  plan.x_resident = normed;
  plan.x_stride = ResidentStride(k);
  plan.tile = ChooseTile(t, most_outputs, k, gated, normed);
  const GemvTile& tile = kGemvTiles[plan.tile];
  plan.passes = CeilDiv(most_outputs, PassOutputs(tile, gated));
  plan.pass_outputs = CeilDiv(most_outputs, plan.passes);
  plan.group = ChooseGroup(tile, t, k, plan.passes);
  plan.row_floats = static_cast<int>(RowFloats(tile, plan.group));
  plan.prefetch_bytes = kPrefetchBytes;
  plan.shared_bytes = SharedBytes(tile, t, k, plan.group, normed);
  return plan;
}

}  // namespace tessera
