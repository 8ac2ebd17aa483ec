// The shape of the few-row kernel over packed weights (packed_gemv.h) for a problem. No CUDA.
#pragma once

#include <cstdint>

#include "kernels/gemm/gemv_config.h"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_weight.h"

namespace tessera {

inline constexpr int kPackedGemvMaxRows = 8;  // rows of x
inline constexpr int kPackedGemvMaxStages = 8;

// How a kernel is compiled. Small leaves a multiprocessor's registers and shared memory for a block
// of the next kernel, which loads while this one ends. Wide takes more than one row of x.
enum class PackedGemvForm { kSmall, kLarge, kWide };
constexpr int PackedGemvResident(PackedGemvForm form) {  // blocks of a multiprocessor
  return form == PackedGemvForm::kSmall ? 2 : 1;
}
// Warps that multiply, beside one that loads and one that writes: with 64 registers a thread where
// two blocks share a multiprocessor, else 128.
inline constexpr int kPackedGemvWarps = 14;
inline constexpr int kPackedGemvThreads = (kPackedGemvWarps + 2) * 32;
constexpr bool PackedGemvWide(PackedGemvForm form) { return form == PackedGemvForm::kWide; }
inline constexpr int kPackedGemvPairs = 2;  // of tiles of 8 rows of w in a strip

// x is kept as digits (packed_gemv_x.cuh): bytes of one, for a chunk of a row.
inline constexpr int kPackedXDigits = 3;
constexpr int PackedXSlot(int bits) { return bits == 4 ? 128 : 64; }
constexpr int PackedXChunk(int bits) { return kPackedXDigits * PackedXSlot(bits); }  // of a row
inline constexpr int kPackedXTogether = 2;  // chunks of a warp whose digits are made together

struct PackedGemvProblem {
  int64_t t = 0, n = 0, k = 0;  // as in LinearArgs; n a multiple of 8, k of 16
  bool gated = false, normed = false;
  int bits = 4;
  int64_t group = 0;  // as in PackedWeight
  bool ragged = false;
  bool zeros = false;
  // One of several products of a kernel, t = 1: takes a whole multiprocessor whatever its size, and
  // keeps no more of x than it needs.
  bool joined = false;

  int64_t rows() const { return (gated ? 2 : 1) * n; }  // of w
};

// Of checked args with a packed weight.
PackedGemvProblem PackedGemvProblemOf(const LinearArgs& args);

// How many steps of 16 k share a row of scales: a whole block of 64 bytes, two, or one.
enum class PackedSegment { kBlock, kTwoSteps, kStep };

// chunk / chunks_a_group, by multiplication: the upper half of chunk * magic, or the chunk itself
// where chunks_a_group is 1 (GroupOfChunk() in packed_gemv_work.cuh).
struct PackedGroups {
  uint32_t chunks_a_group = 1, magic = 0;
};
// Of a problem with `chunks` blocks of 64 bytes in a row, at least one.
PackedGroups PackedGroupsOf(const PackedGemvProblem& problem, int64_t chunks);

// A block computes a run of outputs, in tiles of 8. The rows of w for them are cut into strips of
// two parts of kPackedGemvPairs tiles: gate and up or, not gated, tiles that follow each other. A
// strip may lack its last tiles; what stands in for them is multiplied and not used.
//
// A stage is kPackedGemvWarps chunks of k, one for each warp, of every row of a strip: weights
// [parts][tiles][warps][512 bytes]; scales and zeros [warps][chunk_rows] rows, [parts][tiles][8].
inline constexpr int kPackedStripRows = 2 * kPackedGemvPairs * static_cast<int>(kPackedTileRows);
inline constexpr int kPackedBarrierBytes = 2 * 8;  // of a stage or a slot for sums: full, free
inline constexpr int kPackedReadyBytes = 16;       // of the barrier behind them
inline constexpr int kPackedScaleRow = kPackedStripRows * 2;
constexpr int PackedZeroRow(int bits) { return kPackedStripRows * bits / 8; }

struct PackedGemvPlan {
  PackedGemvForm form = PackedGemvForm::kSmall;
  PackedSegment segment = PackedSegment::kBlock;
  int blocks = 0;
  int block_tiles = 0, larger_blocks = 0;  // tiles of outputs, the first blocks one more
  int strips = 0, strip_tiles = 0;         // of a block; of outputs in a strip but the last
  int chunks = 0;                          // 64-byte blocks of a row of w
  int rounds = 0;                          // stages of a strip
  int stages = 0;                          // of the block's ring
  int early_stages = 0;                    // that load before x is asked for
  int stage_bytes = 0;
  int chunk_rows = 1;                     // rows of scales and zeros of a chunk that differ
  int scale_offset = 0, zero_offset = 0;  // in a stage
  PackedGroups groups;
  int x_places = 0;                       // chunks of x kept at once
  int x_bytes = 0, x_unit_bytes = 0;      // of x in shared memory
  int norm_bytes = 0;                     // of the norm's weight there
  int sum_slots = 1, sum_slot_bytes = 0;  // for sums of strips
  int64_t shared_bytes = 0;               // more than the GPU's where nothing fits
};

// Shared memory that the forms that take a whole multiprocessor leave, where they have stages
// enough, to a block of the decode attention kernel (decode_few.cuh, e = 128), which so starts
// while they end; and a chain (packed_chain.h) loads while that runs.
inline constexpr int64_t kPackedRoom = 41 * 1024;
// What such a block has at least, so that there is no second one beside it: two of the next
// kernel's might meet on one multiprocessor while others have none.
inline constexpr int64_t kPackedWholeShared = 116 * 1024;

// Bytes of a block's shared memory behind its stages, but for ragged groups.
int64_t PackedGemvBehind(const PackedGemvPlan& plan);

PackedSegment PackedSegmentOf(const PackedGemvProblem& problem);

// Whether the kernel takes the problem: its t and n, and an x below the size from which the
// many-row kernel is faster. Its plan may still not fit the GPU.
bool PackedGemvServes(const PackedGemvProblem& problem);

// Of a problem that it serves.
PackedGemvPlan PlanPackedGemv(const GemvGpu& gpu, const PackedGemvProblem& problem);

}  // namespace tessera
