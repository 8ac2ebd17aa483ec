// The linear product of many rows with packed weights (packed_weight.h).
#pragma once

#include <absl/status/status.h>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/linear_check.h"
#include "kernels/gemm/packed_gemm_config.h"

namespace tessera {

// LinearArgs' product for args.packed and any t >= 1: y = x W^T, then bias, residual or SiLU gate.
// norm_weight is ignored: x is normalised. Uses workspace.library, and workspace.ungated when
// gated. Weights round to `dtype` once, but where tiles of up to kPackedScaledTokens tokens
// multiply q - zero and sums are scaled; sums are fp32 in an order that depends on the shape and
// the GPU only. Of many rows, or where compute capability 9.0 or rows in eights are missing, the
// products that are gated round to `dtype` as well.
//
// Enqueues on `stream`. The weight is read while earlier kernels may still run: it was complete
// before the first call. Launches that may run at once need workspaces of their own.
// kInvalidArgument: packed's shape or grouping is not one that packed_weight.h allows, a gated
//   product has a bias or residual, or the workspace is too small. kUnimplemented: a dtype other
//   than bf16 and f16. kInternal: a launch was refused.
absl::Status LaunchPackedGemm(const LinearArgs& args, const LinearWorkspace& workspace,
                              cudaStream_t stream);

// Its two ways, for tests and benchmarks. By parts: rows of W are expanded to `dtype` in the
// workspace, in parts that fit, and multiplied by cuBLASLt. By plan: compute capability 9.0 only.
absl::Status LaunchPackedGemmByParts(const LinearArgs& args, const LinearWorkspace& workspace,
                                     cudaStream_t stream);
absl::Status LaunchPackedGemmByPlan(const LinearArgs& args, const PackedGemmPlan& plan,
                                    const LinearWorkspace& workspace, cudaStream_t stream);

}  // namespace tessera
