// The few-row linear kernel over packed weights: one pass over them for up to 8 rows of x.
#pragma once

#include <absl/status/status.h>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_gemv_config.h"

namespace tessera {

// Enqueues y as LinearCuda does, for checked args that PackedGemvServes(); uses no workspace.
// `plan` is PlanPackedGemv()'s for the current device and args, within the device's shared memory;
// args.norm_weight may be set only when it was planned for.
//
// The packed weight and norm_weight are read before the stream's earlier kernels have finished
// (programmatic dependent launch): they must be complete before the kernel ahead of this one is
// enqueued. The order of each sum is fixed: the same arguments give the same bits.
// kUnimplemented: a dtype other than bf16 and f16. kInternal: the launch was refused.
absl::Status LaunchPackedGemv(const LinearArgs& args, const PackedGemvPlan& plan,
                              cudaStream_t stream);

}  // namespace tessera
