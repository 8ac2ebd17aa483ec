#include <algorithm>

#include "common/status_macros.h"
#include "kernels/runtime/cuda_status.h"
#include "kernels/step/prepare_step.h"
#include "kernels/step/prepare_step_math.h"

namespace tessera {
namespace {

constexpr int kWarp = 32;
constexpr int64_t kMaxThreads = 1024;

// One block, so that __syncthreads() is all the ordering that patches and tokens need: any token
// may read any patch. Thread j takes patches, then tokens, j, j + block, ...
__global__ void __launch_bounds__(kMaxThreads) PrepareStepKernel(PrepareStepArgs a) {
  for (int64_t i = threadIdx.x; i < a.patches; i += blockDim.x) ApplyPatch(a, i);
  __syncthreads();
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < a.t; i += blockDim.x) {
    a.token_ids[i] = TokenId(a, i);
    a.kv_index[i] = KvIndex(a, i);
  }
}

}  // namespace

absl::Status PrepareStepCuda(const PrepareStepArgs& args, const Stream& stream) {
  RETURN_IF_ERROR(CheckPrepareStep(args));
  const int64_t work = std::max(args.t, args.patches);
  if (work == 0) return absl::OkStatus();
  const int64_t threads = std::min((work + kWarp - 1) / kWarp * kWarp, kMaxThreads);
  PrepareStepKernel<<<1, static_cast<unsigned>(threads), 0, stream.cuda>>>(args);
  return CudaStatus(cudaGetLastError(), "prepare_step launch");
}

}  // namespace tessera
