// The shape of the few-row kernel (gemv.h) for a problem. Pure host functions, no CUDA.
#pragma once

#include <cstdint>

namespace tessera {

inline constexpr int kGemvMaxRows = 16;  // rows of x that one tensor core product takes
inline constexpr int kGemvWarps = 8;     // warps of a block

// One compiled variant. A warp's stage holds 8 * tiles rows of w by 32 * k_pieces elements of k.
struct GemvTile {
  int tiles = 0;
  int k_pieces = 0;
  int stages = 0;  // of the ring in shared memory
};
inline constexpr GemvTile kGemvTiles[] = {{1, 2, 12}, {2, 2, 6}, {3, 2, 4}, {4, 2, 3}, {5, 1, 5},
                                          {3, 2, 6},  {4, 2, 5}, {5, 1, 8}, {8, 1, 3}};
inline constexpr int kGemvTileCount = sizeof(kGemvTiles) / sizeof(kGemvTiles[0]);

struct GemvGpu {
  int sm_count = 0;
  int64_t shared_bytes = 0;  // that a block may have
};

struct GemvProblem {
  int64_t t = 0, n = 0, k = 0;  // as in LinearArgs; t in [1, kGemvMaxRows], n and k positive
  bool gated = false;
  bool normed = false;  // inside the kernel, which keeps x in shared memory whole
};

struct GemvPlan {
  int tile = 0;                                  // index into kGemvTiles
  int blocks = 0;                                // block b computes the b-th run of outputs:
  int64_t block_outputs = 0, larger_blocks = 0;  // so many, the first larger_blocks one more
  int64_t passes = 0;                            // parts of a block's outputs
  int64_t pass_outputs = 0;  // of a part but the last; at most 8 * tiles rows of w
  int64_t group = 1;         // passes between two barriers
  int row_floats = 0;        // of a group's partial sums: gate, then up, and padding
  bool x_resident = false;   // x lies in shared memory whole, normalised there; else it streams
  int64_t x_stride = 0;      // bytes between resident rows of x
  int64_t shared_bytes = 0;  // more than the GPU's where no variant fits
};

// Where a normed x is normalised: in the kernel when all of it fits beside the ring; otherwise
// before it, by RmsNorm into the workspace.
bool GemvNormsInside(int64_t t, int64_t k);

GemvPlan PlanGemv(const GemvGpu& gpu, const GemvProblem& problem);

}  // namespace tessera
