// The shape of the few-row kernel over packed weights (packed_gemv.h) for a problem. Pure host
// functions, no CUDA.
#pragma once

#include <cstdint>

#include "kernels/gemm/gemv_config.h"

namespace tessera {

inline constexpr int kPackedGemvMaxRows = 8;  // rows of x
inline constexpr int kPackedGemvMaxStages = 8;

// How a kernel is compiled. Small and tall leave a multiprocessor's registers and shared memory for
// a block of the next kernel, which loads while this one ends. Wide takes more than two rows of x.
enum class PackedGemvForm { kSmall, kTall, kLarge, kWide };
// Blocks of a multiprocessor, warps of each that multiply, beside the one that loads, and pairs of
// tiles of 8 rows of w in a strip: what the registers of a thread, 64, 80 and 128, allow.
constexpr int PackedGemvResident(PackedGemvForm form) {
  return form == PackedGemvForm::kSmall || form == PackedGemvForm::kTall ? 2 : 1;
}
constexpr int PackedGemvMaxWarps(PackedGemvForm form) {
  return form == PackedGemvForm::kTall ? 11 : 15;
}
constexpr int PackedGemvPairs(PackedGemvForm form) { return form == PackedGemvForm::kTall ? 3 : 2; }
constexpr bool PackedGemvWide(PackedGemvForm form) { return form == PackedGemvForm::kWide; }
inline constexpr int kPackedGemvNarrowRows = 2;  // of x, that the other forms take

// x is kept as digits (packed_gemv_x.cuh): bytes of one, for a chunk of a row.
inline constexpr int kPackedXDigits = 3;
constexpr int kPackedXSlot(int bits) { return bits == 4 ? 128 : 64; }

struct PackedGemvProblem {
  int64_t t = 0, n = 0, k = 0;  // as in LinearArgs; n a multiple of 8, k of 16
  bool gated = false, normed = false;
  int bits = 4;
  int64_t group = 0;  // as in PackedWeight
  bool ragged = false;
  bool zeros = false;
};

// How many steps of 16 k share a row of scales: a whole block of 64 bytes, two, or one.
enum class PackedSegment { kBlock, kTwoSteps, kStep };

// Where pair i of tiles lies: its first tile at i * step, the other `odd` behind.
struct PackedPairs {
  int step = 0, odd = 0;
};

// A block computes a run of outputs, in tiles of 8. The rows of w for them are cut into strips. A
// stage is `warps` chunks of k, one for each warp, of every row of a strip.
struct PackedGemvPlan {
  PackedGemvForm form = PackedGemvForm::kSmall;
  PackedSegment segment = PackedSegment::kBlock;
  int warps = 0;
  int blocks = 0;
  int block_tiles = 0, larger_blocks = 0;  // tiles of outputs, the first blocks one more
  int strips = 0, strip_tiles = 0;         // of a block; of outputs in a strip but the last
  // PackedGemvPairs(): tiles 2 i and 2 i + 1 of w or, gated, i of gate and of up. A strip may lack
  // the last ones; what stands in for them is multiplied and not used.
  int pairs = 0;
  int chunks = 0;        // 64-byte blocks of a row of w
  int rounds = 0;        // stages of a strip
  int stages = 0;        // of the block's ring
  int early_stages = 0;  // that load before x: a deeper queue would keep x waiting
  int stage_bytes = 0, scale_offset = 0, zero_offset = 0;
  int chunk_rows = 1;                            // rows of scales and zeros of a chunk that differ
  int scale_row_bytes = 0, zero_row_bytes = 0;   // of one part: all there is or, gated, gate or up
  PackedPairs weight_at, scale_at, zero_at;      // bytes in a stage
  PackedPairs sum_at;                            // floats in a row of partial sums
  uint32_t chunks_a_group = 1, group_magic = 0;  // chunk / chunks_a_group, by multiplication
  int x_bytes = 0, x_scale_bytes = 0;            // of x in shared memory
  int norm_bytes = 0;                            // of the norm's weight there
  int group = 1;                                 // strips between two barriers
  int row_floats = 0;                            // of a strip's partial sums for a row of x
  int64_t shared_bytes = 0;                      // more than the GPU's where nothing fits
};

// Whether the kernel takes the problem: its t and n, and an x that fits beside the ring. What it
// does not take, the many-row kernel does, faster too where x is large.
bool PackedGemvServes(const PackedGemvProblem& problem);

// Of a problem that it serves.
PackedGemvPlan PlanPackedGemv(const GemvGpu& gpu, const PackedGemvProblem& problem);

}  // namespace tessera
