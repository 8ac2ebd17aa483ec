#include "kernels/gemm/packed_gemm_sm90.cuh"

namespace tessera {

absl::Status LaunchPackedGemm8Sm90(const LinearArgs& args, const PackedGemmPlan& plan,
                                   const PackedScratch& scratch, cudaStream_t stream) {
  return LaunchBits<8>(args, plan, scratch, stream);
}

}  // namespace tessera
