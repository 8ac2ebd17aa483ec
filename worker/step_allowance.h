// How long a step may take before the watchdog calls it a hang.
#pragma once

#include <cstdint>
#include <vector>

#include <absl/time/time.h>
#include <absl/types/span.h>

#include "planner/memory_layout.h"
#include "worker/step_plan.h"

namespace tessera {

// What a step's time depends on: its rows, and the query-token pairs that attention visits.
struct StepWork {
  int64_t rows = 0;
  int64_t pairs = 0;
};

StepWork WorkOf(const StepDraft& draft);
// An upper bound: every row as if it came last in the longest context.
StepWork WorkOf(const PlanHeader& header);

class StepAllowance {
 public:
  // `buffers` is the layout's.
  StepAllowance(const LayoutInput& layout, absl::Span<const BufferSpec> buffers);

  // Ten times what the step would take on a slow device of its kind, through all stages, and no
  // less than five seconds.
  absl::Duration For(StepWork work) const;

 private:
  double bytes_per_s_, flops_per_s_;
  double weight_bytes_ = 0, cache_bytes_ = 0, cache_bytes_a_token_ = 0;
  double flops_a_row_ = 0;
  double flops_a_pair_ = 0;  // of attention
  double stages_ = 1;
};

}  // namespace tessera
