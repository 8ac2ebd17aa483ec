// The many-row packed product on compute capability 9.0 (H100, H200): wgmma and TMA.
#pragma once

#include <absl/status/status.h>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_gemm_config.h"

namespace tessera {

inline constexpr int kPackedMaxBlocks = 256;

struct PackedScratch {
  float* partial = nullptr;  // device, plan.scratch_bytes(), aligned to 16 bytes
  int flag_slot = 0;         // FlagSlotOf() (flag_slots.h)
};

// Enqueues LaunchPackedGemm's work (packed_gemm.h) as `plan` says, for weights of the bits in the
// name. n is a multiple of 8, plan.blocks at most the
// multiprocessors and kPackedMaxBlocks.
// kUnimplemented: a tile or dtype without a kernel. kInternal: the launch was refused.
absl::Status LaunchPackedGemm4Sm90(const LinearArgs& args, const PackedGemmPlan& plan,
                                   const PackedScratch& scratch, cudaStream_t stream);
absl::Status LaunchPackedGemm8Sm90(const LinearArgs& args, const PackedGemmPlan& plan,
                                   const PackedScratch& scratch, cudaStream_t stream);

}  // namespace tessera
