#include "kernels/gemm/packed_chain_kernel.cuh"

namespace tessera {
namespace packed_gemv {

ChainFn ChainF16(int bits, bool zeros) { return ChainOf<__half>(bits, zeros); }

}  // namespace packed_gemv
}  // namespace tessera
