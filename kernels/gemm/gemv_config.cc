#include "kernels/gemm/gemv_config.h"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

constexpr int64_t kTileRows = 8;      // rows of w that one tensor core product takes
constexpr int64_t kPieceK = 32;       // k that a warp's 16-byte loads cover in one row
constexpr int64_t kPieceBytes = 512;  // a warp's 16-byte loads
constexpr int64_t kResidentBytes = 24 * 1024;
constexpr int64_t kSmallXBytes = 12 * 1024, kManyStages = 6;
constexpr int64_t kHalfBytes = 2, kFloatBytes = 4;
constexpr int64_t kMaxGroup = 8, kMaxGroupBytes = 10 * 1024;
// Weights past this size take a multiprocessor for each block, and with it a deeper ring (measured,
// docs/kernels.md).
constexpr int64_t kAloneBytes = 20'000'000;
// In kGemvTiles: those to choose from, the first with a deeper ring, the way to it, the widest.
constexpr int kSearched = 5, kFirstWithDeeper = 2, kToDeeper = 3, kWideTile = kGemvTileCount - 1;

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

int64_t WeightBytes(const GemvProblem& p) { return (p.gated ? 2 : 1) * p.n * p.k * kHalfBytes; }

// The tile whose slots are fullest, since empty slots of the ring are bytes not in flight; the
// larger one of equals. More than 8 rows of x stream past every pass, which then should be wide.
int ChooseTile(const GemvGpu& gpu, const GemvProblem& p, int64_t block_outputs) {
  const auto fits = [&](int i) {
    return SharedBytes(kGemvTiles[i], p.t, p.k, 1, p.normed) <= gpu.shared_bytes;
  };
  if (p.t > 8 && block_outputs >= PassOutputs(kGemvTiles[kWideTile], p.gated)) return kWideTile;
  int best = kWideTile;
  double best_fill = 0;
  for (int i = 0; i < kSearched; ++i) {
    if ((p.gated && kGemvTiles[i].tiles % 2 != 0) || !fits(i)) continue;
    const int64_t room = PassOutputs(kGemvTiles[i], p.gated);
    const double fill = static_cast<double>(block_outputs) /
                        static_cast<double>(CeilDiv(block_outputs, room) * room);
    if (fill >= best_fill - 1e-3) {
      best = i;
      best_fill = std::max(fill, best_fill);
    }
  }
  const bool deeper = best >= kFirstWithDeeper && best < kSearched &&
                      WeightBytes(p) >= kAloneBytes && fits(best + kToDeeper);
  return deeper ? best + kToDeeper : best;
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

// Streaming x costs each of a warp's first stages about 0.18 us between the end of the kernel ahead
// and the first product (measured, H200); where there are many, x that is small is kept instead.
bool KeepsSmallX(const GemvTile& tile, int64_t t, int64_t k, int64_t passes) {
  const int64_t steps = CeilDiv(passes * CeilDiv(k, tile.k_pieces * kPieceK), kGemvWarps);
  return std::min<int64_t>(steps, tile.stages) >= kManyStages &&
         t * ResidentStride(k) <= kSmallXBytes;
}

}  // namespace

bool GemvNormsInside(int64_t t, int64_t k) { return t * ResidentStride(k) <= kResidentBytes; }

GemvPlan PlanGemv(const GemvGpu& gpu, const GemvProblem& p) {
  GemvPlan plan;
  plan.blocks = static_cast<int>(std::min<int64_t>(gpu.sm_count, p.n));
  plan.block_outputs = p.n / plan.blocks;
  plan.larger_blocks = p.n % plan.blocks;
  const int64_t most_outputs = CeilDiv(p.n, plan.blocks);
  plan.x_stride = ResidentStride(p.k);
  plan.tile = ChooseTile(gpu, p, most_outputs);
  const GemvTile& tile = kGemvTiles[plan.tile];
  plan.passes = CeilDiv(most_outputs, PassOutputs(tile, p.gated));
  plan.pass_outputs = CeilDiv(most_outputs, plan.passes);
  plan.x_resident = p.normed || KeepsSmallX(tile, p.t, p.k, plan.passes);
  plan.group = ChooseGroup(tile, p.t, p.k, plan.passes);
  plan.row_floats = static_cast<int>(RowFloats(tile, plan.group));
  plan.shared_bytes = SharedBytes(tile, p.t, p.k, plan.group, plan.x_resident);
  // A block that starts early may land beside another of the same kernel on a multiprocessor that
  // the kernels ahead left emptier, and both then take nearly twice as long. More than half of the
  // shared memory keeps them apart; small weights gain more from starting early.
  if (WeightBytes(p) >= kAloneBytes)
    plan.shared_bytes = std::max(plan.shared_bytes, gpu.shared_bytes / 2 + 1024);
  return plan;
}

}  // namespace tessera
