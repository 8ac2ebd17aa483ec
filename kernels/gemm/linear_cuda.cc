#include <absl/status/status.h>
#include <cuda_runtime_api.h>

#include "common/status_macros.h"
#include "kernels/gemm/cublaslt_gemm.h"
#include "kernels/gemm/elementwise.h"
#include "kernels/gemm/gemv.h"
#include "kernels/gemm/gemv_config.h"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/linear_check.h"
#include "kernels/gemm/linear_config.h"
#include "kernels/gemm/packed_batch.h"
#include "kernels/gemm/packed_chain.h"
#include "kernels/gemm/packed_gemm.h"
#include "kernels/gemm/packed_gemv.h"
#include "kernels/gemm/packed_gemv_config.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/runtime/current_gpu.h"

namespace tessera {
namespace {

// x's rows normalised into the workspace, from where the product reads them.
absl::Status NormFirst(LinearArgs& a, void* rows, const Stream& stream) {
  RETURN_IF_ERROR(RmsNormCuda({.x = a.x,
                               .weight = a.norm_weight,
                               .y = rows,
                               .t = a.t,
                               .d = a.k,
                               .eps = a.norm_eps,
                               .dtype = a.dtype},
                              stream));
  a.x = rows;
  a.norm_weight = nullptr;
  return absl::OkStatus();
}

// Bias and residual ride on the product where the library can add them (outputs of `dtype`); fp32
// outputs are seeded with them instead.
absl::Status ManyRows(const LinearArgs& a, const LinearWorkspace& parts, cudaStream_t stream) {
  GemmArgs gemm = {.x = a.x,
                   .w = a.w,
                   .y = a.y,
                   .t = a.t,
                   .n = a.n,
                   .k = a.k,
                   .dtype = a.dtype,
                   .y_dtype = a.y_dtype,
                   .workspace = parts.library,
                   .workspace_bytes = parts.library_bytes};
  if (a.gated) {
    gemm.y = parts.ungated;
    gemm.n = 2 * a.n;
    gemm.y_dtype = a.dtype;
    RETURN_IF_ERROR(CublasLtGemm(gemm, stream));
    return LaunchSiluMul({.both = parts.ungated,
                          .y = a.y,
                          .t = a.t,
                          .n = a.n,
                          .dtype = a.dtype,
                          .y_dtype = a.y_dtype},
                         stream);
  }
  if (a.y_dtype == a.dtype) {
    gemm.bias = a.bias;
    gemm.c = a.residual;
  } else if (a.bias != nullptr || a.residual != nullptr) {
    auto* y = static_cast<float*>(a.y);
    RETURN_IF_ERROR(LaunchSeedOutputs(
        {.bias = a.bias, .residual = a.residual, .y = y, .t = a.t, .n = a.n, .dtype = a.dtype},
        stream));
    gemm.c = y;
  }
  return CublasLtGemm(gemm, stream);
}

absl::Status PackedLinear(LinearArgs& a, const GemvGpu& gpu, const Stream& stream) {
  const PackedGemvProblem problem = PackedGemvProblemOf(a);
  const LinearWorkspace parts = SplitLinearWorkspace(a);
  PackedBatchPlan batch;
  if (CurrentGpu().is_sm90() && PackedBatchServes(problem)) batch = PlanPackedBatch(gpu, problem);
  const bool batched = batch.strips > 0 && batch.scratch_bytes <= parts.library_bytes;
  if (!batched && PackedGemvServes(problem)) {
    const PackedGemvPlan plan = PlanPackedGemv(gpu, problem);
    if (plan.shared_bytes <= gpu.shared_bytes) return LaunchPackedGemv(a, plan, stream.cuda);
  }
  if (problem.normed) RETURN_IF_ERROR(NormFirst(a, parts.normed, stream));
  return batched ? LaunchPackedBatch(a, batch, parts, stream.cuda)
                 : LaunchPackedGemm(a, parts, stream.cuda);
}

// Of checked args.
absl::Status Launch(LinearArgs a, const GemvGpu& gpu, const Stream& stream) {
  if (a.t == 0 || a.n == 0) return absl::OkStatus();
  if (a.packed.values != nullptr) return PackedLinear(a, gpu, stream);
  const LinearWorkspace parts = SplitLinearWorkspace(a);
  const bool normed = a.norm_weight != nullptr;
  if (a.t <= kGemvMaxRows && a.k > 0) {
    const bool inside = normed && GemvNormsInside(a.t, a.k);
    const GemvPlan plan =
        PlanGemv(gpu, {.t = a.t, .n = a.n, .k = a.k, .gated = a.gated, .normed = inside});
    if (plan.shared_bytes <= gpu.shared_bytes) {
      if (normed && !inside) RETURN_IF_ERROR(NormFirst(a, parts.normed, stream));
      return LaunchGemv(a, plan, stream.cuda);
    }
  }
  if (normed) RETURN_IF_ERROR(NormFirst(a, parts.normed, stream));
  return ManyRows(a, parts, stream.cuda);
}

}  // namespace

absl::Status LinearCuda(const LinearArgs& args, const Stream& stream) {
  return LinearSequenceCuda({.products = &args, .count = 1}, stream);
}

absl::Status LinearSequenceCuda(const LinearSequenceArgs& args, const Stream& stream) {
  const GpuIdentity& current = CurrentGpu();
  if (current.sm_count == 0) return absl::InternalError("linear: no CUDA device");
  const GemvGpu gpu = {.sm_count = current.sm_count, .shared_bytes = current.shared_bytes};
  absl::Span<const LinearArgs> left(args.products, static_cast<size_t>(args.count));
  for (const LinearArgs& a : left) RETURN_IF_ERROR(CheckLinear(a, Device::kCuda, gpu.sm_count));
  while (!left.empty()) {
    const PackedChainPlan plan = current.is_sm90() ? PlanPackedChain(gpu, left) : PackedChainPlan{};
    const size_t taken = static_cast<size_t>(std::max(plan.count, 1));
    RETURN_IF_ERROR(plan.count > 0 ? LaunchPackedChain(left.first(taken), plan, stream.cuda)
                                   : Launch(left.front(), gpu, stream));
    left.remove_prefix(taken);
  }
  return absl::OkStatus();
}

}  // namespace tessera
