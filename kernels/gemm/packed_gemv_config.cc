#include "kernels/gemm/packed_gemv_config.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/align.h"
#include "kernels/gemm/packed_weight.h"

namespace tessera {
namespace {

constexpr int64_t kTileRows = 8;
constexpr int64_t kTileBytes = kTileRows * kPackedBlockBytes;
constexpr int64_t kScaleBytes = 2 * kTileRows;  // of a tile's rows, f16
constexpr int64_t kZeroBytes = 16;              // of a tile's rows, with room to align
constexpr int64_t kHalfBytes = 2, kFloatBytes = 4;
constexpr int64_t kRowPad = 16;  // bytes after a row of x, so that eight lie in different banks
constexpr int kMaxGroup = 8;
constexpr int64_t kMaxGroupBytes = 12 * 1024;
constexpr int64_t kResidentBytes = 120 * 1024;  // of x beside the ring
constexpr int64_t kNormBytes = 64 * 1024;
// Weights past this size take a multiprocessor for each block, and with it twice the warps and a
// deeper ring; below, the next kernel's blocks start beside (measured, docs/kernels.md).
constexpr int64_t kAloneBytes = 80'000'000;
constexpr int64_t kSharedBytes = 110 * 1024;
constexpr int64_t kMinRingBytes = 72 * 1024;
// Of a ring: with two, a warp waits for one while it works on the other.
constexpr int kMinStages = 2, kGoodStages = 3;

int64_t ResidentStride(int64_t k) { return AlignUp(k * kHalfBytes, 256) + kRowPad; }

PackedSegment SegmentOf(const PackedGemvProblem& p) {
  if (p.ragged) return PackedSegment::kStep;
  return p.group >= PackedBlock(p.bits) ? PackedSegment::kBlock : PackedSegment::kTwoSteps;
}

int64_t Segments(const PackedGemvPlan& plan, int bits) {
  const int64_t steps = PackedBlock(bits) / kPackedStep;
  return plan.segment == PackedSegment::kBlock  ? 1
         : plan.segment == PackedSegment::kStep ? steps
                                                : steps / 2;
}

int64_t WeightBytes(const PackedGemvProblem& p) {
  return (p.gated ? 2 : 1) * p.n * PackedRowBytes(p.bits, p.k);
}

// Passes between barriers: at a barrier every warp waits for those that had one chunk of k more, so
// the chunks of a group should divide over the warps. The fewest that come near the best.
int ChooseGroup(const PackedGemvPlan& plan, int64_t pass_row_bytes, int64_t t) {
  int best = 1;
  double best_fill = 0;
  for (int group = 1; group <= std::min(plan.passes, kMaxGroup); ++group) {
    if (group > 1 && plan.buffers * plan.warps * t * group * pass_row_bytes > 2 * kMaxGroupBytes)
      break;
    const double share = static_cast<double>(group) * plan.chunks / plan.warps;
    const double fill = share / std::ceil(share);
    if (fill > best_fill + 0.02) {
      best = group;
      best_fill = fill;
    }
  }
  return best;
}

// Splits `outputs` of a block into passes of at most `tiles` tiles.
void SetPasses(PackedGemvPlan& plan, const PackedGemvProblem& p, int64_t outputs, int64_t tiles) {
  const int64_t rows_an_output = p.gated ? 2 : 1;
  const int64_t passes = CeilDiv(outputs, tiles * kTileRows / rows_an_output);
  plan.pass_outputs = static_cast<int>(AlignUp(CeilDiv(outputs, passes), 2));
  plan.passes = static_cast<int>(CeilDiv(outputs, plan.pass_outputs));
  plan.tiles = static_cast<int>(CeilDiv(plan.pass_outputs, kTileRows) * rows_an_output);
  const int64_t pass_row_bytes = plan.pass_outputs * rows_an_output * kFloatBytes;
  plan.group = ChooseGroup(plan, pass_row_bytes, p.t);
}

// Of the busiest warp, in units of the instructions for a tile of a stage, about 53 (sm_90a): two
// tiles share a product; a stage costs as much as three tiles besides, four with more than 8 rows
// of x, and a pass as five.
double Clocks(const PackedGemvPlan& plan, const PackedGemvProblem& p) {
  const double stage_cost = p.t > 8 ? 4 : 3, pass_cost = 5;
  const auto steps = [&](int64_t passes) {
    return static_cast<double>(CeilDiv(passes * plan.chunks, plan.warps));
  };
  const int rest = plan.passes % plan.group;
  const double all = steps(plan.group) * static_cast<double>(plan.passes / plan.group) +
                     (rest > 0 ? steps(rest) : 0.);
  return all * (2 * static_cast<double>(CeilDiv(plan.tiles, 2)) + stage_cost) +
         plan.passes * pass_cost;
}

void ChooseTiles(PackedGemvPlan& plan, const PackedGemvProblem& p, int64_t outputs,
                 int64_t most_tiles) {
  PackedGemvPlan best = plan;
  double best_clocks = std::numeric_limits<double>::infinity();
  for (int64_t tiles = p.gated ? 2 : 1; tiles <= most_tiles; tiles += p.gated ? 2 : 1) {
    SetPasses(plan, p, outputs, tiles);
    const double clocks = Clocks(plan, p);
    if (clocks > best_clocks * 1.001) continue;
    best = plan;
    best_clocks = clocks;
  }
  plan = best;
}

void SetStage(PackedGemvPlan& plan, const PackedGemvProblem& p) {
  const int64_t segments = Segments(plan, p.bits);
  plan.scale_offset = static_cast<int>(plan.tiles * kTileBytes);
  plan.zero_offset = plan.scale_offset + static_cast<int>(segments * plan.tiles * kScaleBytes);
  plan.x_offset =
      plan.zero_offset + static_cast<int>(p.zeros ? segments * plan.tiles * kZeroBytes : 0);
  plan.stage_bytes = plan.x_offset;
  plan.x_stride = static_cast<int>(ResidentStride(p.k));
  if (plan.x_resident) return;
  plan.x_stride = static_cast<int>(PackedBlock(p.bits) * kHalfBytes + kRowPad);
  plan.stage_bytes += static_cast<int>(p.t * plan.x_stride);
}

void SetPartials(PackedGemvPlan& plan, const PackedGemvProblem& p) {
  // Whole tiles are stored, of which the next pass overwrites what is too much.
  const int tile_outputs = plan.tiles / (p.gated ? 2 : 1) * static_cast<int>(kTileRows);
  const int group_outputs = (plan.group - 1) * plan.pass_outputs + tile_outputs;
  plan.up_floats = p.gated ? group_outputs : 0;
  plan.row_floats = static_cast<int>(AlignUp(group_outputs + plan.up_floats, 8)) + 4;
}

void SetGroups(PackedGemvPlan& plan, const PackedGemvProblem& p) {
  const int64_t rows = (p.gated ? 2 : 1) * p.n;
  plan.scale_stride = static_cast<uint32_t>(rows * kHalfBytes);
  plan.zero_stride = static_cast<uint32_t>(PackedZeroStride(p.bits, rows));
  const int64_t chunks = std::max<int64_t>(1, p.group / PackedBlock(p.bits));
  plan.chunks_a_group = static_cast<uint32_t>(std::min<int64_t>(chunks, plan.chunks));
  const uint64_t d = plan.chunks_a_group;
  plan.group_magic = d == 1 ? 0 : static_cast<uint32_t>(((uint64_t{1} << 32) + d - 1) / d);
}

// What a plan tries to keep: given up in turn where shared memory does not suffice.
struct Wish {
  int warps = 8, buffers = 2;
  bool x_resident = false;
  int64_t most_tiles = kPackedGemvMaxTiles;
};

PackedGemvPlan PlanFor(const GemvGpu& gpu, const PackedGemvProblem& p, const Wish& wish,
                       bool alone) {
  PackedGemvPlan plan;
  plan.segment = SegmentOf(p);
  plan.warps = wish.warps;
  plan.buffers = wish.buffers;
  plan.x_resident = wish.x_resident;
  plan.chunks = static_cast<int>(CeilDiv(p.k, PackedBlock(p.bits)));
  plan.blocks = static_cast<int>(std::min<int64_t>(gpu.sm_count, p.n / 2));
  plan.block_pairs = static_cast<int>(p.n / 2 / plan.blocks);
  plan.larger_blocks = static_cast<int>(p.n / 2 % plan.blocks);
  ChooseTiles(plan, p, 2 * CeilDiv(p.n / 2, plan.blocks), wish.most_tiles);
  plan.pass_bytes = plan.pass_outputs * PackedRowBytes(p.bits, p.k);
  SetStage(plan, p);
  SetPartials(plan, p);
  SetGroups(plan, p);

  const int64_t fixed = plan.buffers * plan.warps * p.t * plan.row_floats * kFloatBytes +
                        (plan.x_resident ? p.t * plan.x_stride : 0) +
                        (p.ragged ? AlignUp(p.k / kPackedStep * kHalfBytes, 16) : 0);
  const int64_t budget =
      std::min(gpu.shared_bytes,
               std::max(alone || p.t > 8 ? gpu.shared_bytes : kSharedBytes, fixed + kMinRingBytes));
  const int64_t needed = CeilDiv(int64_t{plan.passes} * plan.chunks, plan.warps);
  const int64_t room = (budget - fixed) / (plan.warps * plan.stage_bytes);
  plan.stages = static_cast<int>(std::clamp<int64_t>(
      room, kMinStages, std::clamp<int64_t>(needed, kMinStages, kPackedGemvMaxStages)));
  plan.shared_bytes = plan.warps * plan.stages * plan.stage_bytes + fixed;
  // A block that starts early may land beside another of the same kernel (gemv_config.cc).
  if (alone) plan.shared_bytes = std::max(plan.shared_bytes, gpu.shared_bytes / 2 + 1024);
  return plan;
}

}  // namespace

bool PackedGemvNormsInside(int64_t t, int64_t k) { return t * ResidentStride(k) <= kNormBytes; }

PackedGemvPlan PlanPackedGemv(const GemvGpu& gpu, const PackedGemvProblem& p) {
  const bool alone = WeightBytes(p) >= kAloneBytes;
  const bool resident = p.normed || p.t * ResidentStride(p.k) <= kResidentBytes;
  const int warps = alone ? PackedGemvWarps(p.t) : 8;
  const Wish wishes[] = {
      {.warps = warps, .buffers = p.t > 8 ? 1 : 2, .x_resident = resident},
      {.warps = warps, .buffers = 1, .x_resident = resident},
      {.warps = std::min(warps, 12), .buffers = 1, .x_resident = resident},
      {.warps = 8, .buffers = 1, .x_resident = resident},
      {.warps = 8, .buffers = 1, .x_resident = resident, .most_tiles = 6},
      {.warps = 8, .buffers = 1, .x_resident = resident, .most_tiles = 4},
      {.warps = 8, .buffers = 1, .x_resident = p.normed, .most_tiles = 4},
      {.warps = 8, .buffers = 1, .x_resident = p.normed, .most_tiles = 2},
  };
  PackedGemvPlan best;
  best.shared_bytes = std::numeric_limits<int64_t>::max();
  for (const Wish& wish : wishes) {
    const PackedGemvPlan plan = PlanFor(gpu, p, wish, alone);
    const bool fits = plan.shared_bytes <= gpu.shared_bytes;
    const int64_t work = CeilDiv(int64_t{plan.passes} * plan.chunks, plan.warps);
    if (fits && plan.stages >= std::min<int64_t>(kGoodStages, work)) return plan;
    if (fits ? best.shared_bytes > gpu.shared_bytes : plan.shared_bytes < best.shared_bytes)
      best = plan;
  }
  return best;
}

}  // namespace tessera
