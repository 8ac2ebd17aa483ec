#include "planner/step_capacity.h"

#include "common/dtype.h"
#include "planner/memory_layout.h"

namespace tessera {

PlanCapacity CapacityOf(const EngineLimits& limits) {
  return {.tokens = limits.max_step_tokens,
          .sequences = limits.max_sequences,
          .block_patches = limits.max_sequences + limits.max_step_tokens / limits.block_size,
          .slot_resets = limits.max_sequences,
          .targets = limits.max_step_tokens};
}

int64_t MaxPlanBytes(const EngineLimits& limits) {
  constexpr int64_t kHeaderBytes = 80, kResetBytes = 64;  // worker/step_plan.h
  constexpr int64_t kArrays = 12, kArrayAlignment = 16;
  const PlanCapacity c = CapacityOf(limits);
  const int64_t words = 3 * c.tokens + 5 * c.sequences + 1 + 3 * c.block_patches + 2 * c.targets;
  return kHeaderBytes + words * SizeOf(DType::kI32) + c.slot_resets * kResetBytes +
         kArrays * kArrayAlignment;
}

}  // namespace tessera
