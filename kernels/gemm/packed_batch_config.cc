#include <algorithm>

#include "common/align.h"
#include "kernels/gemm/packed_batch.h"

namespace tessera {
namespace {

constexpr int64_t kStripRows = 4 * kPackedTileRows;
constexpr int64_t kMostStages = 8;
constexpr int64_t kBarrierBytes = 16 * kMostStages;

int Int(int64_t v) { return static_cast<int>(v); }

}  // namespace

PackedBatchPlan PlanPackedBatch(const GemvGpu& gpu, const PackedGemvProblem& p, int strips,
                                int blocks) {
  PackedBatchPlan plan;
  if (p.t > kPackedBatchRows || p.normed || p.ragged || p.n % 8 != 0 || p.k % 64 != 0 ||
      PackedSegmentOf(p) != PackedSegment::kBlock || gpu.sm_count > kPackedBatchBlocks)
    return plan;
  const int64_t block = PackedBlock(p.bits), chunks = CeilDiv(p.k, block);
  const int64_t all_strips = CeilDiv((p.gated ? 2 : 1) * p.n, kStripRows);
  if (strips == 0) {
    strips = 1;
    while (strips < kPackedBatchWarps && CeilDiv(all_strips, int64_t{2} * strips) >= gpu.sm_count)
      strips *= 2;
  }
  plan.strips = strips;
  plan.depth = kPackedBatchWarps / strips;
  plan.tokens = p.t <= 8 ? 8 : 16;
  plan.chunks = Int(chunks);
  plan.rounds = Int(CeilDiv(chunks, int64_t{plan.depth}));
  plan.tiles = Int(CeilDiv(all_strips, int64_t{strips}));
  const int64_t units = int64_t{plan.tiles} * plan.rounds;
  plan.blocks = blocks > 0 ? blocks : Int(std::min<int64_t>(units, gpu.sm_count));
  plan.x_offset = kPackedBatchWarps * 4 * Int(kPackedTileBytes);
  plan.scale_offset = plan.x_offset + Int(plan.depth * block * 2 * plan.tokens);
  plan.zero_offset = plan.scale_offset + kPackedBatchWarps * 4 * 16;
  plan.stage_bytes =
      Int(AlignUp(plan.zero_offset + (p.zeros ? kPackedBatchWarps * 4 * 8 : 0), 1024));
  const int64_t group = p.group >= p.k ? AlignUp(p.k, block) : p.group;
  plan.chunks_a_group =
      static_cast<uint32_t>(std::min(std::max<int64_t>(1, group / block), chunks));
  const uint64_t d = plan.chunks_a_group;
  plan.group_magic = d == 1 ? 0 : static_cast<uint32_t>(((uint64_t{1} << 32) + d - 1) / d);
  const int64_t strip_sums = kStripRows * plan.tokens * 4;
  const int64_t behind = (kPackedBatchWarps - strips) * strip_sums + kBarrierBytes;
  plan.stages = Int(std::min(kMostStages, (gpu.shared_bytes - behind) / plan.stage_bytes));
  plan.shared_bytes = int64_t{plan.stages} * plan.stage_bytes + behind;
  plan.scratch_bytes = plan.blocks * strips * strip_sums;
  if (plan.stages < 2) plan.strips = 0;
  return plan;
}

}  // namespace tessera
