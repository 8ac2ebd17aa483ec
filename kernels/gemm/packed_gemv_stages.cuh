// How the packed few-row kernel (packed_gemv.cuh) brings weights, scales, zeros and x to a warp's
// ring of stages.
#pragma once

#include <cstdint>

#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_gemv_config.h"

namespace tessera {
namespace packed_gemv {

constexpr int kTileRows = 8;
constexpr int kTileBytes = kTileRows * static_cast<int>(kPackedBlockBytes);
constexpr int kScaleTileBytes = 16, kZeroTileBytes = 16;

struct Params {
  LinearArgs args;
  PackedGemvPlan plan;
};

// The outputs of this block, [first, last), and of its passes; all ends are even.
struct BlockRange {
  __device__ explicit BlockRange(const PackedGemvPlan& plan) {
    const int b = static_cast<int>(blockIdx.x), extra = static_cast<int>(plan.larger_blocks);
    const int pairs = static_cast<int>(plan.block_pairs);
    first = 2 * (b * pairs + min(b, extra));
    last = first + 2 * (pairs + (b < extra ? 1 : 0));
  }
  __device__ __forceinline__ int pass_first(const PackedGemvPlan& plan, int pass) const {
    return min(first + pass * plan.pass_outputs, last);
  }
  int first, last;
};

// Where tile q of a pass lies: its first output in the pass, and its first row of w after the
// pass's first output. Tiles of a gated product are gate and up in turn.
struct TileMap {
  __device__ explicit TileMap(const LinearArgs& a)
      : odd_outputs(a.gated ? 0 : kTileRows),
        two_outputs(a.gated ? kTileRows : 2 * kTileRows),
        odd_rows(a.gated ? static_cast<int>(a.n) : kTileRows) {}
  __device__ __forceinline__ int output(int q) const {
    return (q & 1) * odd_outputs + (q >> 1) * two_outputs;
  }
  __device__ __forceinline__ int row(int q) const {
    return (q & 1) * odd_rows + (q >> 1) * two_outputs;
  }
  int odd_outputs, two_outputs, odd_rows;
};

// Copies a warp's stages, one 64-byte block of each row of a pass: weights by the lanes that feed
// them to the tensor cores (row lane / 4 of each tile, piece lane % 4), scales and zeros by any.
// A stage: [tiles][8 rows][64 bytes], scales f16 [segments][tiles][8], zeros [segments][tiles][16
// bytes, from the 4-byte word of the tile's first], x [t][x_stride bytes].
template <typename T, int kBits, PackedSegment kSegment>
class StageLoader {
  static constexpr unsigned kScaleValid = 0x100, kZeroValid = 0x200;
  static constexpr int kBlock = static_cast<int>(PackedBlock(kBits));
  static constexpr int kSteps = kBlock / static_cast<int>(kPackedStep);
  static constexpr int kSegments = kSegment == PackedSegment::kBlock      ? 1
                                   : kSegment == PackedSegment::kTwoSteps ? kSteps / 2
                                                                          : kSteps;

 public:
  // `steps` is group_of_step in shared memory.
  __device__ StageLoader(const Params& p, BlockRange block, uint32_t ring, const uint16_t* steps)
      : a_(p.args),
        plan_(p.plan),
        block_(block),
        ring_(ring),
        steps_(steps),
        policy_(EvictFirstPolicy()),
        chunk_(threadIdx.x / kWarp) {
    const TileMap map(a_);
    const int64_t row_bytes = PackedRowBytes(kBits, a_.packed.k);
    row_ = static_cast<const char*>(a_.packed.values) + (block.first + lane_ / 4) * row_bytes +
           lane_ % 4 * 16;
    odd_bytes_ = map.odd_rows * row_bytes;
    two_bytes_ = map.two_outputs * row_bytes;
    scale_row_ = block.first + map.row(lane_ / 4);
    SetValid();
    SkipFinishedPasses();
  }

  // Copies the next stage into `slot`: tiles 2 * pair and the next at a time, which may come as
  // soon as this lane has read those of the slot, then the rest, and closes one group. Rows that do
  // not exist keep what the slot held: their sums are not stored. Nothing at the end of the work.
  __device__ __forceinline__ void LoadPair(int slot, int pair) const {
    if (pass_ >= plan_.passes) return;
    const uint32_t to = ring_ + slot * plan_.stage_bytes + 2 * pair * kTileBytes + lane_ * 16;
    const char* even = row_ + chunk_ * static_cast<int>(kPackedBlockBytes) + pair * two_bytes_;
    if (valid_ >> (2 * pair) & 1) CopyAsync16(to, even, policy_);
    if (valid_ >> (2 * pair) & 2) CopyAsync16(to + kTileBytes, even + odd_bytes_, policy_);
  }
  template <bool kWithX>
  __device__ __forceinline__ void LoadRest(int slot) {
    if (pass_ < plan_.passes) {
      LoadScales(ring_ + slot * plan_.stage_bytes);
      if (kWithX && !plan_.x_resident) LoadX(slot, chunk_);
      Advance();
    }
    CommitCopies();
  }
  __device__ __forceinline__ void LoadWithoutX(int slot) {
    for (int pair = 0; 2 * pair < plan_.tiles; ++pair) LoadPair(slot, pair);
    LoadRest<false>(slot);
  }

  // The piece of x that belongs to a chunk of k; zeros past k.
  __device__ __forceinline__ void LoadX(int slot, int chunk) const {
    constexpr int kPieces = kBlock / 8;  // of 16 bytes in a row
    const uint32_t base = ring_ + slot * plan_.stage_bytes + plan_.x_offset;
    const T* x = static_cast<const T*>(a_.x);
    const int t = static_cast<int>(a_.t), piece = lane_ % kPieces;
    const int64_t k = int64_t{chunk} * kBlock + piece * 8;
    const bool valid = k < a_.k;
    for (int row = lane_ / kPieces; row < t; row += kWarp / kPieces)
      CopyAsync16(base + row * plan_.x_stride + piece * 16, valid ? x + row * a_.k + k : x, valid);
  }

  // x of the warp's first stages, for loading it after the weights.
  __device__ __forceinline__ void LoadXOfFirstStages() const {
    int pass = 0, chunk = threadIdx.x / kWarp;
    for (int slot = 0; slot < plan_.stages; ++slot) {
      while (pass < plan_.passes && chunk >= plan_.chunks) chunk -= plan_.chunks, ++pass;
      if (pass >= plan_.passes) break;
      LoadX(slot, chunk);
      chunk += plan_.warps;
    }
  }

 private:
  __device__ __forceinline__ uint32_t GroupOf(int segment) const {
    if (kSegment == PackedSegment::kBlock)
      return plan_.chunks_a_group == 1 ? chunk_ : __umulhi(chunk_, plan_.group_magic);
    if (kSegment == PackedSegment::kTwoSteps)
      return (chunk_ * kBlock + segment * 32) >> (a_.packed.group == 32 ? 5 : 6);
    const int step = chunk_ * kSteps + segment;
    return step < a_.packed.k / kPackedStep ? steps_[step] : 0;
  }

  // A lane copies one word of scales and one of zeros: word lane % 4 of tile lane / 4.
  __device__ __forceinline__ void LoadScales(uint32_t base) const {
    const uint32_t to = base + plan_.scale_offset + lane_ * 4;
    const int scale_at = (scale_row_ + lane_ % 4 * 2) * 2, zero_at = ZeroAt();
#pragma unroll
    for (int s = 0; s < kSegments; ++s) {
      const bool past = kSegments > 1 && chunk_ * kBlock + s * (kBlock / kSegments) >= k_;
      const uint32_t group = past ? 0 : GroupOf(s);
      if (valid_ & kScaleValid)
        CopyAsync4(to + s * plan_.tiles * kScaleTileBytes,
                   static_cast<const char*>(a_.packed.scales) + scale_at +
                       uint64_t{group} * plan_.scale_stride);
      if (valid_ & kZeroValid)
        CopyAsync4(to + plan_.zero_offset - plan_.scale_offset + s * plan_.tiles * kZeroTileBytes,
                   static_cast<const char*>(a_.packed.zeros) + zero_at +
                       uint64_t{group} * plan_.zero_stride);
    }
  }
  __device__ __forceinline__ int ZeroAt() const {
    return (scale_row_ * kBits / 8 & ~3) + lane_ % 4 * 4;
  }

  __device__ __forceinline__ void Advance() {
    chunk_ += plan_.warps;
    if (chunk_ >= plan_.chunks) SkipFinishedPasses();
  }
  __device__ __forceinline__ void SkipFinishedPasses() {
    while (chunk_ >= plan_.chunks && pass_ < plan_.passes) {
      chunk_ -= plan_.chunks;
      ++pass_;
      row_ += plan_.pass_bytes;
      scale_row_ += plan_.pass_outputs;
      if (pass_ + 1 >= plan_.passes || a_.packed.zeros != nullptr) SetValid();
    }
  }
  // Which rows, scales and zeros of the pass exist.
  __device__ __forceinline__ void SetValid() {
    const TileMap map(a_);
    const int first = block_.pass_first(plan_, pass_);
    const int count = block_.pass_first(plan_, pass_ + 1) - first;
    valid_ = 0;
    for (int q = 0; q < plan_.tiles; ++q)
      valid_ |= static_cast<unsigned>(map.output(q) + lane_ / 4 < count) << q;
    const int q = lane_ / 4, output = map.output(q);
    if (q < plan_.tiles && output + lane_ % 4 * 2 < count) valid_ |= kScaleValid;
    if (a_.packed.zeros != nullptr && q < plan_.tiles && output < count &&
        ZeroAt() < static_cast<int>(plan_.zero_stride))
      valid_ |= kZeroValid;
  }

  const LinearArgs& a_;
  const PackedGemvPlan& plan_;
  const BlockRange block_;
  const uint32_t ring_;
  const uint16_t* const steps_;
  const uint64_t policy_;
  const int lane_ = threadIdx.x % kWarp;
  const int k_ = static_cast<int>(a_.k);
  const char* row_;  // the lane's 16 bytes of its row of the first tile of the pass, first chunk
  int64_t odd_bytes_, two_bytes_;  // to an odd tile and between pairs
  int scale_row_;                  // first row of the tile whose scales the lane copies
  int pass_ = 0, chunk_;
  unsigned valid_ = 0;  // bit q: the lane's row of tile q; and kScaleValid, kZeroValid
};

}  // namespace packed_gemv
}  // namespace tessera
