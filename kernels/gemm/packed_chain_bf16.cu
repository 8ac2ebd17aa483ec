#include "kernels/gemm/packed_chain_kernel.cuh"

namespace tessera {
namespace packed_gemv {

ChainFn ChainBf16(int bits, bool zeros) { return ChainOf<__nv_bfloat16>(bits, zeros); }

}  // namespace packed_gemv
}  // namespace tessera
