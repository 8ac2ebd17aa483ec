// The linear product of 2 to 16 rows with packed weights (packed_weight.h), sm_90.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/linear_check.h"
#include "kernels/gemm/packed_gemv_config.h"

namespace tessera {

inline constexpr int kPackedBatchRows = 16;    // of x
inline constexpr int kPackedBatchWarps = 16;   // that multiply; another one loads
inline constexpr int kPackedBatchBlocks = 256;  // at most
inline constexpr int kPackedBatchThreads = (kPackedBatchWarps + 1) * 32;

// A strip is 32 rows of w: four tiles, or two of gate and two of up. A block multiplies `strips`
// strips ("a tile of strips") by `depth` chunks of k at a time ("a stage"), a warp each.
//
// Stages of all tiles, laid end to end, are cut into `blocks` runs of equal length. The block whose
// run starts a tile has its outputs; others give it their sums, which it adds in the order of k.
struct PackedBatchPlan {
  int strips = 0, depth = 0;  // powers of two, their product kPackedBatchWarps; 0: not served
  int tokens = 0;             // rows of x in shared memory: 8 or 16
  int chunks = 0;             // of k: blocks of 64 bytes of a row of w
  int rounds = 0;             // stages of a tile
  int tiles = 0, blocks = 0;
  int stages = 0, stage_bytes = 0;                           // of the block's ring
  int x_offset = 0, scale_offset = 0, zero_offset = 0;  // in a stage, behind values
  uint32_t chunks_a_group = 1, group_magic = 0;
  int64_t shared_bytes = 0, scratch_bytes = 0;
};

// strips: 0 for the best.
PackedBatchPlan PlanPackedBatch(const GemvGpu& gpu, const PackedGemvProblem& problem,
                                int strips = 0, int blocks = 0);

// Enqueues y = x W^T, then bias, residual or gate, for checked args without a norm, as planned.
// Uses scratch_bytes of workspace.library. kInternal: the launch was refused.
absl::Status LaunchPackedBatch(const LinearArgs& args, const PackedBatchPlan& plan,
                               const LinearWorkspace& workspace, cudaStream_t stream);

}  // namespace tessera
