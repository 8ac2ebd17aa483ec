#include "kernels/gemm/packed_gemv_config.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "common/align.h"
#include "kernels/gemm/packed_weight.h"

namespace tessera {
namespace {

constexpr int64_t kTileRows = kPackedTileRows;
constexpr int64_t kHalfBytes = 2, kFloatBytes = 4;
constexpr int64_t kBoxAlign = 128;  // of what TMA writes
constexpr int64_t kStageBarriers = 16, kReadyBytes = 16;
constexpr int64_t kGroupBytes = 16 * 1024;  // of partial sums between two barriers, twice
// Of a block that leaves room for one of the next kernel; CUDA keeps 1 KB for each.
constexpr int64_t kSmallShared = 112 * 1024;
constexpr int64_t kEarlyBytes = 72 * 1024;
constexpr int kGoodStages = 3;
constexpr int kIdleWarps = 6;  // whose slots a round leaves empty
// Packed weights past this size, or k past this, are worth all of a multiprocessor
// (packed_gemm_bench m1, H200, 2026-11-21).
constexpr int64_t kLargeBytes = 20'000'000;
constexpr int64_t kLargeK = 4097;
// Elements of x, past which the many-row kernel is faster (packed_gemm_bench rows, H200,
// 2026-11-21).
constexpr int64_t kMaxX = 36 * 1024;

int Int(int64_t value) { return static_cast<int>(value); }

int64_t Parts(const PackedGemvProblem& p) { return p.gated ? 2 : 1; }

// k that share a scale; one group of all k, which may be of any size, in whole chunks.
int64_t GroupOf(const PackedGemvProblem& p) {
  return p.group >= p.k ? AlignUp(p.k, PackedBlock(p.bits)) : p.group;
}

PackedSegment SegmentOf(const PackedGemvProblem& p) {
  if (p.ragged) return PackedSegment::kStep;
  return GroupOf(p) >= PackedBlock(p.bits) ? PackedSegment::kBlock : PackedSegment::kTwoSteps;
}

int64_t ChunkRows(const PackedGemvProblem& p) {
  const int64_t block = PackedBlock(p.bits);
  if (p.ragged) return block / kPackedStep;
  return GroupOf(p) >= block ? 1 : block / GroupOf(p);
}

// The most tiles of outputs of a block.
int64_t BlockTiles(const PackedGemvPlan& plan) {
  return plan.block_tiles + (plan.larger_blocks > 0 ? 1 : 0);
}

bool IsLarge(const PackedGemvProblem& p) {
  return Parts(p) * p.n * PackedRowBytes(p.bits, p.k) >= kLargeBytes || p.k >= kLargeK;
}

// Cuts a block's outputs into strips and the strips' chunks into rounds.
void SetStrips(PackedGemvPlan& plan, const PackedGemvProblem& p) {
  const int64_t tiles = BlockTiles(plan), pair_tiles = p.gated ? 1 : 2;
  plan.pairs = PackedGemvPairs(plan.form);
  plan.strips = Int(CeilDiv(tiles, plan.pairs * pair_tiles));
  plan.strip_tiles = Int(CeilDiv(tiles, plan.strips));
  plan.strips = Int(CeilDiv(tiles, plan.strip_tiles));
  plan.rounds = Int(CeilDiv(plan.chunks, plan.warps));
}

// Issue slots of a scheduler for the block's stages: a pair of tiles of a chunk takes about 45, a
// chunk 40 besides and 60 to make digits of a row of x, a strip 40 (sm_90a).
double Slots(const PackedGemvPlan& plan) {
  const double chunk = 45. * plan.pairs + 40;
  return (plan.strips * (plan.rounds * chunk + 40) + plan.rounds * 60.) * (plan.warps + kIdleWarps);
}

std::vector<PackedGemvForm> Forms(const PackedGemvProblem& p) {
  using enum PackedGemvForm;
  if (p.t > kPackedGemvNarrowRows) return {kWide};
  if (IsLarge(p)) return {kLarge};
  return {kSmall, kTall};
}

void ChooseWork(PackedGemvPlan& plan, const PackedGemvProblem& p) {
  PackedGemvPlan best = plan;
  double best_slots = std::numeric_limits<double>::infinity();
  for (const PackedGemvForm form : Forms(p)) {
    plan.form = form;
    const int most = PackedGemvMaxWarps(form);
    for (plan.warps = most; plan.warps >= most * 3 / 5; --plan.warps) {
      SetStrips(plan, p);
      const double slots = Slots(plan);
      if (slots >= best_slots * 0.999) continue;
      best = plan;
      best_slots = slots;
    }
  }
  plan = best;
}

// A stage: weights [parts][tiles][warps][512 bytes]; scales and zeros [parts][warps * chunk_rows]
// rows, zeros from the last multiple of 16 bytes on.
void SetStage(PackedGemvPlan& plan, const PackedGemvProblem& p) {
  const int64_t parts = Parts(p), part_tiles = plan.pairs * 2 / parts;
  const int64_t tile_bytes = plan.warps * kPackedTileBytes;
  const int64_t tile_zeros = p.zeros ? kTileRows * p.bits / 8 : 0;
  plan.chunk_rows = Int(ChunkRows(p));
  plan.scale_row_bytes = Int(part_tiles * kTileRows * kHalfBytes);
  plan.zero_row_bytes = Int(p.zeros ? AlignUp(part_tiles * tile_zeros + 12, 16) : 0);
  if (p.ragged) {  // each row is a copy of its own
    plan.scale_row_bytes = Int(AlignUp(plan.scale_row_bytes, kBoxAlign));
    plan.zero_row_bytes = Int(AlignUp(plan.zero_row_bytes, kBoxAlign));
  }
  const int64_t rows = int64_t{plan.warps} * plan.chunk_rows;
  const int64_t part_scales = AlignUp(rows * plan.scale_row_bytes, kBoxAlign);
  const int64_t part_zeros = AlignUp(rows * plan.zero_row_bytes, kBoxAlign);
  plan.scale_offset = Int(2 * plan.pairs * tile_bytes);
  plan.zero_offset = Int(plan.scale_offset + parts * part_scales);
  plan.stage_bytes = Int(plan.zero_offset + parts * part_zeros);

  const auto at = [&](int64_t tile, int64_t part) {
    return p.gated ? PackedPairs{Int(tile), Int(part)} : PackedPairs{Int(2 * tile), Int(tile)};
  };
  plan.weight_at = at(tile_bytes, plan.pairs * tile_bytes);
  plan.scale_at = at(kTileRows * kHalfBytes, part_scales);
  plan.zero_at = at(tile_zeros, part_zeros);
  plan.sum_at = at(kTileRows, plan.pairs * kTileRows);
  plan.row_floats = Int(2 * plan.pairs * kTileRows + 4);
}

void SetGroups(PackedGemvPlan& plan, const PackedGemvProblem& p) {
  const int64_t chunks = std::max<int64_t>(1, GroupOf(p) / PackedBlock(p.bits));
  plan.chunks_a_group = static_cast<uint32_t>(std::min<int64_t>(chunks, plan.chunks));
  const uint64_t d = plan.chunks_a_group;
  plan.group_magic = d == 1 ? 0 : static_cast<uint32_t>(((uint64_t{1} << 32) + d - 1) / d);
}

}  // namespace

bool PackedGemvServes(const PackedGemvProblem& p) {
  return p.t > 0 && p.t <= kPackedGemvMaxRows && p.n > 0 && p.n % kTileRows == 0 && p.k > 0 &&
         p.t * p.k <= kMaxX;
}

PackedGemvPlan PlanPackedGemv(const GemvGpu& gpu, const PackedGemvProblem& p) {
  PackedGemvPlan plan;
  plan.segment = SegmentOf(p);
  plan.chunks = Int(CeilDiv(p.k, PackedBlock(p.bits)));
  plan.blocks = Int(std::min<int64_t>(gpu.sm_count, p.n / kTileRows));
  plan.block_tiles = Int(p.n / kTileRows / plan.blocks);
  plan.larger_blocks = Int(p.n / kTileRows % plan.blocks);
  ChooseWork(plan, p);
  SetStage(plan, p);
  SetGroups(plan, p);
  plan.x_bytes = Int(plan.chunks * p.t * kPackedXDigits * kPackedXSlot(p.bits));
  plan.x_scale_bytes = Int(plan.chunks * p.t * kFloatBytes);
  plan.norm_bytes = Int(p.normed ? plan.chunks * PackedBlock(p.bits) * kHalfBytes : 0);

  const int64_t strip_partials = plan.warps * p.t * plan.row_floats * kFloatBytes;
  plan.group = Int(std::clamp<int64_t>(kGroupBytes / strip_partials, 1, plan.strips));
  const int64_t partials = strip_partials * plan.group * (plan.strips > plan.group ? 2 : 1);
  const int64_t squares = p.t * plan.warps * kFloatBytes;
  const int64_t fixed = kReadyBytes + plan.x_bytes + plan.norm_bytes + plan.x_scale_bytes +
                        squares + partials +
                        (p.ragged ? AlignUp(p.k / kPackedStep * kHalfBytes, 16) : 0);
  const int64_t needed = int64_t{plan.strips} * plan.rounds;
  const int64_t stage = plan.stage_bytes + kStageBarriers;
  const auto stages_in = [&](int64_t bytes) {
    return std::min<int64_t>({(bytes - fixed) / stage, needed, kPackedGemvMaxStages});
  };
  int64_t stages = PackedGemvResident(plan.form) == 1 ? 0 : stages_in(kSmallShared);
  if (stages < std::min<int64_t>(needed, kGoodStages)) stages = stages_in(gpu.shared_bytes);
  plan.stages = Int(std::max<int64_t>(stages, 1));
  plan.early_stages = Int(std::clamp<int64_t>(kEarlyBytes / plan.stage_bytes, 1, plan.stages));
  plan.shared_bytes = plan.stages * stage + fixed;
  return plan;
}

}  // namespace tessera
