// The linear product of 2 to 16 rows with packed weights (packed_weight.h), sm_90.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/linear_check.h"
#include "kernels/gemm/packed_gemv_config.h"

namespace tessera {

inline constexpr int kPackedBatchRows = 16;     // of x
inline constexpr int kPackedBatchWarps = 16;    // that multiply
inline constexpr int kPackedBatchHelpers = 4;   // a warpgroup, of which two load
inline constexpr int kPackedBatchBlocks = 256;  // at most
inline constexpr int kPackedBatchThreads = (kPackedBatchWarps + kPackedBatchHelpers) * 32;

inline constexpr int kPackedBatchBarrierBytes = 16;  // of a stage
inline constexpr int kPackedBatchPanel = 64;         // of k: what of a row of x lies together

// A strip is 32 rows of w: four tiles, or two of gate and two of up. A block multiplies `strips`
// strips ("a tile of strips") by `depth` chunks of k at a time ("a stage"), a warp each.
//
// Stages of all tiles, laid end to end, are cut into `blocks` runs of equal length. The block whose
// run starts a tile has its outputs; others give it their sums, which it adds in the order of k.
struct PackedBatchPlan {
  int strips = 0, depth = 0;  // powers of two, their product kPackedBatchWarps; 0: does not fit
  int tokens = 0;             // rows of x in shared memory: 8 or 16
  int chunks = 0;             // of k: blocks of 64 bytes of a row of w
  int rounds = 0;             // stages of a tile
  int tiles = 0, blocks = 0;
  int stages = 0, stage_bytes = 0;                      // of the block's ring
  int x_offset = 0, scale_offset = 0, zero_offset = 0;  // in a stage
  PackedGroups groups;
  int64_t shared_bytes = 0, scratch_bytes = 0;
};

// Whether this kernel takes a problem that the few-row kernel (packed_gemv.h) or the many-row one
// (packed_gemm.h) would take else. Its plan may still not fit the GPU. sm_90.
bool PackedBatchServes(const PackedGemvProblem& problem);

// Of a problem with what PackedBatchServes() asks for but for the size of x. For tests and
// benchmarks, with so many strips and blocks where not 0.
PackedBatchPlan PlanPackedBatch(const GemvGpu& gpu, const PackedGemvProblem& problem,
                                int strips = 0, int blocks = 0);

// Enqueues y = x W^T, then bias, residual or gate, for checked args without a norm, as planned.
// Uses scratch_bytes of workspace.library. Operands are q - zero and x, exact in `dtype`; sums of a
// chunk are scaled in fp32. kInvalidArgument: a plan that does not fit, or the workspace too small.
// kUnimplemented: another dtype. kInternal: the launch was refused.
absl::Status LaunchPackedBatch(const LinearArgs& args, const PackedBatchPlan& plan,
                               const LinearWorkspace& workspace, cudaStream_t stream);

}  // namespace tessera
