// The few-row linear kernel: one pass over the weights for up to 16 rows of x.
#pragma once

#include <absl/status/status.h>

#include "kernels/gemm/gemv_config.h"
#include "kernels/gemm/linear.h"

namespace tessera {

// Enqueues y for args.t in [1, kGemvMaxRows] as LinearCuda does; checked args, no workspace used.
// `args.norm_weight` may be set only where GemvNormsInside().
//
// w and norm_weight are read before the stream's earlier kernels have finished (programmatic
// dependent launch): they must be complete before the kernel ahead of this one is enqueued.
// kInternal: the launch was refused.
absl::Status LaunchGemv(const LinearArgs& args, int sm_count, cudaStream_t stream);

}  // namespace tessera
