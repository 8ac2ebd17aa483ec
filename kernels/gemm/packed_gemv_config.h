// The shape of the few-row kernel over packed weights (packed_gemv.h) for a problem. Pure host
// functions, no CUDA.
#pragma once

#include <cstdint>

#include "kernels/gemm/gemv_config.h"

namespace tessera {

inline constexpr int kPackedGemvMaxRows = 16;  // rows of x
inline constexpr int kPackedGemvMaxTiles = 8;  // of 8 rows of w in a pass
// The most warps of a block for t rows: more than 8 rows take more than 128 registers a thread.
constexpr int PackedGemvWarps(int64_t t) { return t > 8 ? 8 : 16; }
inline constexpr int kPackedGemvMaxStages = 16;

struct PackedGemvProblem {
  int64_t t = 0, n = 0, k = 0;  // as in LinearArgs; t in [1, kPackedGemvMaxRows], n even, k of 16
  bool gated = false;
  bool normed = false;  // inside the kernel, which keeps x in shared memory whole
  int bits = 4;
  int64_t group = 0;  // as in PackedWeight
  bool ragged = false;
  bool zeros = false;
};

// How many steps of 16 k share a row of scales: a whole block of 64 bytes, two, or one.
enum class PackedSegment { kBlock, kTwoSteps, kStep };

struct PackedGemvPlan {
  PackedSegment segment = PackedSegment::kBlock;
  int warps = 0;
  int tiles = 0;        // of a pass, 8 rows of w each; gated: gate and up in turn
  int stages = 0;       // of a warp's ring
  int stage_bytes = 0;  // weights, scales, zeros and streamed x of 64 bytes of each row
  int scale_offset = 0, zero_offset = 0, x_offset = 0;  // in a stage
  int blocks = 0;                                       // block b computes the b-th run of outputs:
  int block_pairs = 0, larger_blocks = 0;               // so many pairs, the first ones one more
  int passes = 0;                                       // parts of a block's outputs
  int pass_outputs = 0;                                 // of a part but the last; even
  int64_t pass_bytes = 0;                               // of w between the same rows of two parts
  int group = 1;                                        // passes between two barriers
  int row_floats = 0, up_floats = 0;  // of a group's partial sums, and where a gate's up sums lie
  int buffers = 2;                    // of partial sums
  bool x_resident = false;            // x lies in shared memory whole, normalised there
  int x_stride = 0;                   // bytes between rows of x in shared memory
  uint32_t scale_stride = 0, zero_stride = 0;    // bytes between groups
  int chunks = 0;                                // 64-byte blocks of a row of w
  uint32_t chunks_a_group = 1, group_magic = 0;  // chunk / chunks_a_group, by multiplication
  int64_t shared_bytes = 0;                      // more than the GPU's where nothing fits
};

// Where a normed x is normalised: in the kernel when all of it fits beside the ring; otherwise
// before it, by RmsNorm into the workspace.
bool PackedGemvNormsInside(int64_t t, int64_t k);

PackedGemvPlan PlanPackedGemv(const GemvGpu& gpu, const PackedGemvProblem& problem);

}  // namespace tessera
