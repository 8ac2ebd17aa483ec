#include "kernels/gemm/packed_chain.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr int kLeastStages = 3;

PackedGemvProblem ProblemOf(const LinearArgs& a) {
  return {.t = a.t,
          .n = a.n,
          .k = a.k,
          .gated = a.gated,
          .normed = a.norm_weight != nullptr,
          .bits = a.packed.bits,
          .group = a.packed.group,
          .ragged = a.packed.group_of_step != nullptr,
          .zeros = a.packed.zeros != nullptr,
          .large = true};
}

bool Joins(const GemvGpu& gpu, const LinearArgs& a, const LinearArgs& first) {
  if (a.packed.values == nullptr || a.t != 1 || a.n / kPackedTileRows < gpu.sm_count) return false;
  const PackedGemvProblem problem = ProblemOf(a);
  return PackedGemvServes(problem) && PackedSegmentOf(problem) == PackedSegment::kBlock &&
         a.dtype == first.dtype && a.packed.bits == first.packed.bits &&
         (a.packed.zeros != nullptr) == (first.packed.zeros != nullptr);
}

}  // namespace

int PackedChainLength(const GemvGpu& gpu, absl::Span<const LinearArgs> products) {
  size_t length = 0;
  while (length < std::min<size_t>(products.size(), kPackedChainMost) &&
         Joins(gpu, products[length], products[0]))
    ++length;
  for (; length >= 2; --length)
    if (PlanPackedChain(gpu, products.first(length)).front().stages >= kLeastStages) break;
  return static_cast<int>(length);
}

std::vector<PackedGemvPlan> PlanPackedChain(const GemvGpu& gpu,
                                            absl::Span<const LinearArgs> products) {
  std::vector<PackedGemvPlan> plans;
  PackedGemvPlan most;
  for (const LinearArgs& a : products) {
    const PackedGemvPlan plan = PlanPackedGemv(gpu, ProblemOf(a));
    most.stage_bytes = std::max(most.stage_bytes, plan.stage_bytes);
    most.x_bytes = std::max(most.x_bytes, plan.x_bytes);
    most.x_unit_bytes = std::max(most.x_unit_bytes, plan.x_unit_bytes);
    most.norm_bytes = std::max(most.norm_bytes, plan.norm_bytes);
    plans.push_back(plan);
  }
  int64_t behind = 0;
  for (PackedGemvPlan& plan : plans) {
    plan.stage_bytes = most.stage_bytes;
    plan.x_bytes = most.x_bytes;
    plan.x_unit_bytes = most.x_unit_bytes;
    plan.norm_bytes = most.norm_bytes;
    behind = std::max(behind, PackedGemvBehind(plan, 1));
  }
  const int64_t stage = most.stage_bytes + kPackedStageBarriers;
  const auto stages = static_cast<int>(
      std::clamp<int64_t>((gpu.shared_bytes - behind) / stage, 1, kPackedGemvMaxStages));
  for (PackedGemvPlan& plan : plans) {
    plan.early_stages = std::clamp(plan.early_stages, 1, stages);
    plan.stages = stages;
    plan.shared_bytes = stages * stage + behind;
  }
  return plans;
}

}  // namespace tessera
