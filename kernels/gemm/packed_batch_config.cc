#include <algorithm>

#include "common/align.h"
#include "kernels/gemm/packed_batch.h"

namespace tessera {
namespace {

constexpr int64_t kWarps = kPackedBatchWarps;
constexpr int64_t kTilesOfStrip = 4;
constexpr int64_t kStripRows = kTilesOfStrip * kPackedTileRows;
constexpr int64_t kMostStages = 8, kLeastStages = 2;
constexpr int64_t kBarrierBytes = kPackedBatchBarrierBytes * kMostStages;

int Int(int64_t v) { return static_cast<int>(v); }

// Many strips share x, and sums of few warps meet; few make enough tiles to go round. Of the
// numbers timed by packed_gemm_bench batch (H200, 2026-11-22), within 5 % of the best.
int StripsOfTile(int64_t strips) {
  constexpr int64_t kLeastTiles = 50;
  constexpr int kMost = 8;
  int of_tile = 1;
  while (of_tile < kMost && CeilDiv(strips, int64_t{2} * of_tile) >= kLeastTiles) of_tile *= 2;
  return of_tile;
}

// Either as many blocks as there are multiprocessors, or a number of which every tile gets the
// same. Microseconds from the same runs: a stage, tiles that are shared, runs that cross from tile
// to tile.
int Blocks(const PackedBatchPlan& plan, int64_t sm_count) {
  constexpr double kStage = 0.7, kShared = 1.0, kCrossing = 0.5;
  const int64_t units = int64_t{plan.tiles} * plan.rounds;
  const int64_t all = std::min(sm_count, units);
  const int64_t parts = std::min<int64_t>(sm_count / plan.tiles, plan.rounds);
  if (parts == 0) return Int(all);
  const double even = static_cast<double>(CeilDiv(int64_t{plan.rounds}, parts)) * kStage +
                      (parts > 1 ? kShared : 0);
  const double uneven = static_cast<double>(CeilDiv(units, all)) * kStage + kShared + kCrossing;
  return Int(even <= uneven ? parts * plan.tiles : all);
}

}  // namespace

bool PackedBatchServes(const PackedGemvProblem& p) {
  // Elements of x up to which the few-row kernel is faster (packed_gemm_bench rows and batch, H200,
  // 2026-11-22).
  constexpr int64_t kFewX = 16 * 1024;
  // At more rows than that one takes the many-row kernel is faster with W up to so large, and with
  // groups of 128 of 8 bits (packed_rows_bench ways, 16 rows, beside packed_gemm_bench rows, same
  // day).
  constexpr int64_t kFewWeights = 20'000'000, kGroup = 128;
  const bool wide = p.bits == 8 && p.group >= std::min(kGroup, p.k);
  if (p.t > kPackedGemvMaxRows && (wide || p.rows() * p.k <= kFewWeights)) return false;
  return p.t > 1 && p.t <= kPackedBatchRows && p.n > 0 && p.k > 0 && !p.ragged &&
         p.n % kPackedTileRows == 0 && p.k % kPackedBatchPanel == 0 &&
         PackedSegmentOf(p) == PackedSegment::kBlock &&
         (p.t > kPackedGemvMaxRows || p.t * p.k > kFewX);
}

PackedBatchPlan PlanPackedBatch(const GemvGpu& gpu, const PackedGemvProblem& p, int strips,
                                int blocks) {
  PackedBatchPlan plan;
  if (gpu.sm_count > kPackedBatchBlocks) return plan;
  const int64_t block = PackedBlock(p.bits), chunks = CeilDiv(p.k, block);
  const int64_t all_strips = CeilDiv(p.rows(), kStripRows);
  plan.strips = strips > 0 ? strips : StripsOfTile(all_strips);
  plan.depth = Int(kWarps / plan.strips);
  plan.tokens = p.t <= 8 ? 8 : 16;
  plan.chunks = Int(chunks);
  plan.rounds = Int(CeilDiv(chunks, int64_t{plan.depth}));
  plan.tiles = Int(CeilDiv(all_strips, int64_t{plan.strips}));
  plan.blocks = blocks > 0 ? blocks : Blocks(plan, gpu.sm_count);

  plan.x_offset = Int(kWarps * kTilesOfStrip * kPackedTileBytes);
  plan.scale_offset = plan.x_offset + Int(plan.depth * block * 2 * plan.tokens);
  plan.zero_offset = plan.scale_offset + Int(kWarps * kTilesOfStrip * 16);
  plan.stage_bytes =
      Int(AlignUp(plan.zero_offset + (p.zeros ? kWarps * kTilesOfStrip * 8 : 0), 1024));
  plan.groups = PackedGroupsOf(p, chunks);

  const int64_t strip_sums = kStripRows * plan.tokens * 4;
  const int64_t behind = (kWarps - plan.strips) * strip_sums + kBarrierBytes;
  plan.stages = Int(std::min(kMostStages, (gpu.shared_bytes - behind) / plan.stage_bytes));
  plan.shared_bytes = int64_t{plan.stages} * plan.stage_bytes + behind;
  plan.scratch_bytes = int64_t{plan.blocks} * plan.strips * strip_sums;
  if (plan.stages < kLeastStages) plan.strips = 0;
  return plan;
}

}  // namespace tessera
