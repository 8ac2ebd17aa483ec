#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/gemm/packed_chain.h"
#include "kernels/gemm/packed_chain_kernel.cuh"

namespace tessera {
namespace {

using packed_gemv::ChainExchange;

// One for the device, since launches do not overlap (packed_chain.h). Each clears what the one
// before sent; at first all is zero.
__device__ ChainExchange exchange;

}  // namespace

absl::Status LaunchPackedChain(absl::Span<const LinearArgs> products, const PackedChainPlan& plan,
                               cudaStream_t stream) {
  packed_gemv::ChainParams params;
  params.count = plan.count;
  for (size_t i = 0; i < static_cast<size_t>(plan.count); ++i) {
    params.products[i] = {products[i], plan.products[i]};
    params.residual_from[i] = plan.residual_from[i];
  }
  void* found = nullptr;
  RETURN_IF_CUDA_ERROR(cudaGetSymbolAddress(&found, exchange), "packed chain: exchange");
  params.exchange = static_cast<ChainExchange*>(found);
  const LinearArgs& first = products.front();
  const PackedGemvPlan& shape = plan.products.front();
  const bool zeros = first.packed.zeros != nullptr;
  const packed_gemv::ChainFn kernel = first.dtype == DType::kBf16
                                          ? packed_gemv::ChainBf16(first.packed.bits, zeros)
                                          : packed_gemv::ChainF16(first.packed.bits, zeros);
  RETURN_IF_ERROR(PrepareShared("packed chain", kernel, shape.shared_bytes));
  return LaunchDependent("packed chain launch", kernel,
                         {.grid = dim3(static_cast<unsigned>(shape.blocks)),
                          .block = dim3(kPackedGemvThreads),
                          .shared_bytes = static_cast<size_t>(shape.shared_bytes),
                          .stream = stream},
                         params);
}

}  // namespace tessera
