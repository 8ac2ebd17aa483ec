// The few-row linear kernel: one pass over the weights for up to 16 rows of x.
#pragma once

#include <absl/status/status.h>

#include "kernels/gemm/gemv_config.h"
#include "kernels/gemm/linear.h"

namespace tessera {

// Enqueues y for args.t in [1, kGemvMaxRows] as LinearCuda does; checked args, no workspace used.
// `plan` is PlanGemv()'s for the current device and args, within the device's shared memory;
// args.norm_weight may be set only when it was planned for.
//
// w and norm_weight are read before the stream's earlier kernels have finished (programmatic
// dependent launch): they must be complete before the kernel ahead of this one is enqueued.
// kInternal: the launch was refused.
absl::Status LaunchGemv(const LinearArgs& args, const GemvPlan& plan, cudaStream_t stream);

}  // namespace tessera
