#include "kernels/gemm/packed_chain.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr int kLeastStages = 3;
// Before x is asked for (7B end to end, H200, 2026-11-21: 1 to 4 stages 706, 710, 716 tokens/s).
constexpr int kEarlyStages = 4;

PackedGemvProblem ProblemOf(const LinearArgs& a) {
  PackedGemvProblem problem = PackedGemvProblemOf(a);
  problem.joined = true;
  return problem;
}

// In groups of a chunk or more: the kernel is compiled for no others.
bool Serves(const GemvGpu& gpu, const LinearArgs& a) {
  if (a.packed.values == nullptr || a.t != 1 || a.n / kPackedTileRows < gpu.sm_count) return false;
  const PackedGemvProblem problem = ProblemOf(a);
  return PackedGemvServes(problem) && PackedSegmentOf(problem) == PackedSegment::kBlock;
}

bool Follows(const LinearArgs& a, const LinearArgs& before) {
  return a.x == before.y && a.k == before.n && before.n <= kPackedChainWidth &&
         before.y_dtype == a.dtype && a.dtype == before.dtype &&
         a.packed.bits == before.packed.bits &&
         (a.packed.zeros != nullptr) == (before.packed.zeros != nullptr);
}

// Whether one writes where the other does, but not to the very same outputs: blocks are not in
// step, so that what lies there in the end would be either's.
bool WritesOver(const LinearArgs& a, const LinearArgs& b) {
  if (a.y == b.y && a.n == b.n && a.y_dtype == b.y_dtype) return false;
  const auto* const of_a = static_cast<const char*>(a.y);
  const auto* const of_b = static_cast<const char*>(b.y);
  return of_a < of_b + b.n * SizeOf(b.y_dtype) && of_b < of_a + a.n * SizeOf(a.y_dtype);
}

// The last of `before` that writes what `a` adds, or -1.
int8_t ResidualFrom(const LinearArgs& a, absl::Span<const LinearArgs> before) {
  if (a.residual == nullptr) return -1;
  for (size_t i = before.size(); i-- > 0;)
    if (before[i].y == a.residual) return static_cast<int8_t>(i);
  return -1;
}

// Gives the products of a plan the same stages within `bytes` of shared memory; how many.
int Share(PackedChainPlan& plan, int64_t bytes) {
  const absl::Span<PackedGemvPlan> all(plan.products.data(), static_cast<size_t>(plan.count));
  PackedGemvPlan most;
  for (const PackedGemvPlan& each : all) {
    most.stage_bytes = std::max(most.stage_bytes, each.stage_bytes);
    most.x_bytes = std::max(most.x_bytes, each.x_bytes);
    most.x_unit_bytes = std::max(most.x_unit_bytes, each.x_unit_bytes);
    most.norm_bytes = std::max(most.norm_bytes, each.norm_bytes);
  }
  int64_t behind = 0;
  for (PackedGemvPlan& each : all) {
    each.stage_bytes = most.stage_bytes;
    each.x_bytes = most.x_bytes;
    each.x_unit_bytes = most.x_unit_bytes;
    each.norm_bytes = most.norm_bytes;
    behind = std::max(behind, PackedGemvBehind(each));
  }
  const int64_t stage = int64_t{most.stage_bytes} + kPackedBarrierBytes;
  const auto stages =
      static_cast<int>(std::min<int64_t>((bytes - behind) / stage, kPackedGemvMaxStages));
  for (PackedGemvPlan& each : all) {
    each.stages = stages;
    each.early_stages = std::min(stages, kEarlyStages);
    each.shared_bytes = std::max(stages * stage + behind, std::min(bytes, kPackedWholeShared));
  }
  return stages;
}

}  // namespace

PackedChainPlan PlanPackedChain(const GemvGpu& gpu, absl::Span<const LinearArgs> products) {
  PackedChainPlan plan;
  if (products.size() < kPackedChainLeast) return plan;
  const size_t most = std::min<size_t>(products.size(), kPackedChainMost);
  for (size_t i = 0; i < most && Serves(gpu, products[i]); ++i) {
    if (i > 0 && !Follows(products[i], products[i - 1])) break;
    const auto before = products.first(i);
    if (std::any_of(before.begin(), before.end(),
                    [&](const LinearArgs& b) { return WritesOver(products[i], b); }))
      break;
    const int8_t from = ResidualFrom(products[i], before);
    if (from >= 0 && products[static_cast<size_t>(from)].n != products[i].n) break;
    plan.products[i] = PlanPackedGemv(gpu, ProblemOf(products[i]));
    plan.residual_from[i] = from;
    ++plan.count;
  }
  while (plan.count >= kPackedChainLeast &&
         Share(plan, gpu.shared_bytes - kPackedRoom) < kLeastStages &&
         Share(plan, gpu.shared_bytes) < kLeastStages)
    --plan.count;
  if (plan.count < kPackedChainLeast) plan.count = 0;
  return plan;
}

}  // namespace tessera
