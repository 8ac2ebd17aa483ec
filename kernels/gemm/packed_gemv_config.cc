#include "kernels/gemm/packed_gemv_config.h"

#include <algorithm>

#include "common/align.h"

namespace tessera {
namespace {

constexpr int64_t kTileRows = kPackedTileRows;
constexpr int64_t kHalfBytes = 2, kFloatBytes = 4;
constexpr int64_t kStageAlign = 128;  // so that tiles of all stages lie alike in the banks
constexpr int64_t kFullStage = 2 * kPackedGemvPairs * kPackedGemvWarps * kPackedTileBytes;
constexpr int64_t kSumBytes = 16 * 1024;  // for sums of strips, where two fit
constexpr int64_t kMostSumSlots = 4;
// Of a block that leaves room for one of the next kernel; CUDA keeps 1 KB for each.
constexpr int64_t kSmallShared = 112 * 1024;
// Of weights, that may be under way before x is asked for: a deeper queue would keep x waiting
// (packed_gemm_bench m1, H200, 2026-11-21: 60 to 150 KB differ by 2 %).
constexpr int64_t kEarlyBytes = 110 * 1024;
constexpr int kGoodStages = 3;
// Packed weights of this size, or k past this, are worth all of a multiprocessor
// (packed_gemm_bench m1, H200, 2026-11-21).
constexpr int64_t kLargeBytes = 20'000'000;
constexpr int64_t kSmallK = 4096;
// Elements of x, past which the many-row kernel is faster (packed_gemm_bench rows, H200,
// 2026-11-21).
constexpr int64_t kMaxX = 40 * 1024;

int Int(int64_t value) { return static_cast<int>(value); }

// k that share a scale; one group of all k, which may be of any size, in whole chunks.
int64_t GroupOf(const PackedGemvProblem& p) {
  return p.group >= p.k ? AlignUp(p.k, PackedBlock(p.bits)) : p.group;
}

int64_t ChunkRows(const PackedGemvProblem& p) {
  const int64_t block = PackedBlock(p.bits);
  if (p.ragged) return block / kPackedStep;
  return GroupOf(p) >= block ? 1 : block / GroupOf(p);
}

PackedGemvForm FormOf(const PackedGemvProblem& p) {
  using enum PackedGemvForm;
  if (p.t > 1) return kWide;
  const int64_t bytes = p.rows() * PackedRowBytes(p.bits, p.k);
  return p.joined || bytes >= kLargeBytes || p.k > kSmallK ? kLarge : kSmall;
}

void SetStage(PackedGemvPlan& plan, const PackedGemvProblem& p) {
  plan.chunk_rows = Int(ChunkRows(p));
  const int rows = kPackedGemvWarps * plan.chunk_rows;
  // Tiles that the strips lack take no room, as far as they are the last.
  const int64_t tiles = p.gated ? 2 * kPackedGemvPairs : plan.strip_tiles;
  plan.scale_offset = Int(tiles * kPackedGemvWarps * kPackedTileBytes);
  plan.zero_offset = plan.scale_offset + rows * kPackedScaleRow;
  const int zeros = p.zeros ? rows * PackedZeroRow(p.bits) : 0;
  plan.stage_bytes = Int(AlignUp(plan.zero_offset + zeros, kStageAlign));
}

}  // namespace

PackedGemvProblem PackedGemvProblemOf(const LinearArgs& a) {
  return {.t = a.t,
          .n = a.n,
          .k = a.k,
          .gated = a.gated,
          .normed = a.norm_weight != nullptr,
          .bits = a.packed.bits,
          .group = a.packed.group,
          .ragged = a.packed.group_of_step != nullptr,
          .zeros = a.packed.zeros != nullptr};
}

PackedSegment PackedSegmentOf(const PackedGemvProblem& p) {
  if (p.ragged) return PackedSegment::kStep;
  return GroupOf(p) >= PackedBlock(p.bits) ? PackedSegment::kBlock : PackedSegment::kTwoSteps;
}

PackedGroups PackedGroupsOf(const PackedGemvProblem& p, int64_t chunks) {
  const int64_t of_group = std::max<int64_t>(1, GroupOf(p) / PackedBlock(p.bits));
  const auto d = static_cast<uint64_t>(std::min(of_group, chunks));
  return {.chunks_a_group = static_cast<uint32_t>(d),
          .magic = d == 1 ? 0 : static_cast<uint32_t>(((uint64_t{1} << 32) + d - 1) / d)};
}

int64_t PackedGemvBehind(const PackedGemvPlan& plan) {
  const int64_t sums = int64_t{plan.sum_slots} * (plan.sum_slot_bytes + kPackedBarrierBytes);
  const int64_t behind =
      kPackedReadyBytes + sums + plan.x_bytes + plan.norm_bytes + plan.x_unit_bytes;
  // What stands in for tiles of the last stage is read too.
  return std::max<int64_t>(behind, kFullStage - plan.stage_bytes);
}

bool PackedGemvServes(const PackedGemvProblem& p) {
  return p.t > 0 && p.t <= kPackedGemvMaxRows && p.n > 0 && p.n % kTileRows == 0 && p.k > 0 &&
         p.t * p.k <= kMaxX;
}

PackedGemvPlan PlanPackedGemv(const GemvGpu& gpu, const PackedGemvProblem& p) {
  PackedGemvPlan plan;
  plan.segment = PackedSegmentOf(p);
  plan.chunks = Int(CeilDiv(p.k, PackedBlock(p.bits)));
  plan.blocks = Int(std::min<int64_t>(gpu.sm_count, p.n / kTileRows));
  plan.block_tiles = Int(p.n / kTileRows / plan.blocks);
  plan.larger_blocks = Int(p.n / kTileRows % plan.blocks);
  const int64_t tiles = plan.block_tiles + (plan.larger_blocks > 0 ? 1 : 0);
  plan.form = FormOf(p);
  plan.strips = Int(CeilDiv(tiles, kPackedGemvPairs * 2 / (p.gated ? 2 : 1)));
  plan.strip_tiles = Int(CeilDiv(tiles, plan.strips));
  plan.strips = Int(CeilDiv(tiles, plan.strip_tiles));
  plan.rounds = Int(CeilDiv(plan.chunks, kPackedGemvWarps));
  SetStage(plan, p);
  plan.groups = PackedGroupsOf(p, plan.chunks);
  plan.x_places = plan.chunks;
  if (p.joined && plan.strips == 1)
    plan.x_places = std::min(plan.chunks, kPackedXTogether * kPackedGemvWarps);
  plan.x_bytes = Int(plan.x_places * p.t * PackedXChunk(p.bits));
  plan.x_unit_bytes = Int(plan.x_places * p.t * kFloatBytes);
  plan.norm_bytes = Int(p.normed ? plan.chunks * PackedBlock(p.bits) * kHalfBytes : 0);

  plan.sum_slot_bytes =
      Int(AlignUp(kPackedGemvWarps * p.t * (kPackedStripRows + 1) * kFloatBytes, 16));
  plan.sum_slots = Int(std::clamp<int64_t>(kSumBytes / plan.sum_slot_bytes, 2, kMostSumSlots));
  if (!p.joined) plan.sum_slots = std::min(plan.sum_slots, plan.strips);
  const int64_t needed = int64_t{plan.strips} * plan.rounds;
  const int64_t stage = plan.stage_bytes + kPackedBarrierBytes;
  const int64_t behind =
      PackedGemvBehind(plan) + (p.ragged ? AlignUp(p.k / kPackedStep * kHalfBytes, 16) : 0);
  const auto stages_in = [&](int64_t bytes) {
    return std::min<int64_t>(
        {(std::min(bytes, gpu.shared_bytes) - behind) / stage, needed, kPackedGemvMaxStages});
  };
  int64_t stages = PackedGemvResident(plan.form) == 1 ? 0 : stages_in(kSmallShared);
  if (plan.form == PackedGemvForm::kLarge) stages = stages_in(gpu.shared_bytes - kPackedRoom);
  if (stages < std::min<int64_t>(needed, kGoodStages)) stages = stages_in(gpu.shared_bytes);
  plan.stages = Int(std::max<int64_t>(stages, 1));
  plan.early_stages = Int(std::clamp<int64_t>(kEarlyBytes / plan.stage_bytes, 1,
                                              std::min<int64_t>(plan.stages, needed)));
  plan.shared_bytes = plan.stages * stage + behind;
  if (PackedGemvResident(plan.form) == 1)
    plan.shared_bytes = std::max(plan.shared_bytes, std::min(gpu.shared_bytes, kPackedWholeShared));
  return plan;
}

}  // namespace tessera
