#include "kernels/gemm/packed_gemv_kernel.cuh"

namespace tessera {
namespace packed_gemv {

KernelFn KernelBf16(size_t index) {
  static constexpr auto kTable = KernelTable<__nv_bfloat16>(std::make_index_sequence<kKernels>());
  return kTable[index];
}

}  // namespace packed_gemv
}  // namespace tessera
