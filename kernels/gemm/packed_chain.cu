#include <algorithm>
#include <array>
#include <mutex>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/gemm/packed_chain.h"
#include "kernels/gemm/packed_chain_kernel.cuh"

namespace tessera {
namespace {

constexpr int kCounters = 16;
__device__ unsigned long long arrivals[kCounters];

// Counters go with workspaces: launches that may run at once have workspaces of their own.
absl::StatusOr<unsigned long long*> CounterOf(const void* workspace) {
  static std::mutex mutex;
  static std::array<const void*, kCounters> owners = {};
  static size_t next = 0;
  void* all = nullptr;
  RETURN_IF_CUDA_ERROR(cudaGetSymbolAddress(&all, arrivals), "packed chain: counters");
  const std::lock_guard<std::mutex> lock(mutex);
  const auto* found = std::find(owners.begin(), owners.end(), workspace);
  if (found == owners.end()) {
    found = &owners[next];
    owners[next] = workspace;
    next = (next + 1) % kCounters;
  }
  return static_cast<unsigned long long*>(all) + (found - owners.begin());
}

}  // namespace

absl::Status LaunchPackedChain(absl::Span<const LinearArgs> products, const GemvGpu& gpu,
                               cudaStream_t stream) {
  const std::vector<PackedGemvPlan> plans = PlanPackedChain(gpu, products);
  packed_gemv::ChainParams params;
  params.count = static_cast<int>(products.size());
  for (size_t i = 0; i < products.size(); ++i) params.products[i] = {products[i], plans[i]};
  ASSIGN_OR_RETURN(params.arrivals, CounterOf(products.front().workspace));
  const LinearArgs& first = products.front();
  const bool zeros = first.packed.zeros != nullptr;
  const packed_gemv::ChainFn kernel = first.dtype == DType::kBf16
                                          ? packed_gemv::ChainBf16(first.packed.bits, zeros)
                                          : packed_gemv::ChainF16(first.packed.bits, zeros);
  RETURN_IF_CUDA_ERROR(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(gpu.shared_bytes)),
                       "packed chain: shared memory");
  RETURN_IF_CUDA_ERROR(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                            cudaSharedmemCarveoutMaxShared),
                       "packed chain: shared memory carve-out");
  return LaunchDependent("packed chain launch", kernel,
                         {.grid = dim3(static_cast<unsigned>(gpu.sm_count)),
                          .block = dim3(kPackedGemvThreads),
                          .shared_bytes = static_cast<size_t>(plans.front().shared_bytes),
                          .stream = stream},
                         params);
}

}  // namespace tessera
