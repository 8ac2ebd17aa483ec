#include "kernels/gemm/packed_gemv_kernel.cuh"

namespace tessera {
namespace packed_gemv {

KernelFn KernelF16(size_t index) {
  static constexpr auto kTable = KernelTable<__half>(std::make_index_sequence<kKernels>());
  return kTable[index];
}

}  // namespace packed_gemv
}  // namespace tessera
