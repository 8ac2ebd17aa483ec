#include "common/status_macros.h"
#include "kernels/runtime/cuda_status.h"
#include "kernels/sampling/count_tokens_math.h"
#include "kernels/sampling/sample_check.h"

namespace tessera {
namespace {

constexpr int kThreads = 256;

// One thread a token. Tokens of one sequence may meet in an entry; the outcome does not depend on
// their order. Grid ceil(t / kThreads), block kThreads.
__global__ void __launch_bounds__(kThreads) CountTokensKernel(CountTokensArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= a.t) return;
  const int64_t entry = SeenEntry(a, i);
  if (entry < 0) return;
  const bool prompt = IsPrompt(a, i);
  uint16_t seen = a.seen.table[entry];
  for (uint16_t assumed = ~seen; assumed != seen;) {
    assumed = seen;
    seen = atomicCAS(&a.seen.table[entry], assumed, Counted(assumed, prompt));
  }
}

}  // namespace

absl::Status CountTokensCuda(const CountTokensArgs& args, const Stream& stream) {
  RETURN_IF_ERROR(CheckCountTokens(args));
  if (args.seen.table == nullptr || args.t == 0) return absl::OkStatus();
  const auto blocks = static_cast<unsigned>((args.t + kThreads - 1) / kThreads);
  CountTokensKernel<<<blocks, kThreads, 0, stream.cuda>>>(args);
  return CudaStatus(cudaGetLastError(), "count_tokens launch");
}

}  // namespace tessera
