// The largest step an engine may meet, and the micro-batches that take turns.
#pragma once

#include <cstdint>

#include "model/shard.h"

namespace tessera {

struct EngineLimits;

// Array sizes of the largest plan (worker/step_plan.h).
struct PlanCapacity {
  int64_t tokens = 0;
  int64_t sequences = 0;
  int64_t block_patches = 0;
  int64_t slot_resets = 0;
  int64_t targets = 0;
};

// Each sequence may start one block, and each full block of tokens one more; every sequence may be
// new.
PlanCapacity CapacityOf(const EngineLimits& limits);

// Bytes of a plan of that size at most.
int64_t MaxPlanBytes(const EngineLimits& limits);

// Micro-batches, each with sampled ids of its own: one per pipeline stage.
inline int64_t Lanes(const ParallelShape& shape) { return shape.pp; }

// Steps issued before the results of the first are read.
inline int64_t StepsInFlight(const ParallelShape& shape) { return Lanes(shape) + 1; }

}  // namespace tessera
