// How scales and zero points of the packed few-row kernel (packed_gemv.h) come to shared memory.
#pragma once

#include <cstdint>

#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/packed_gemv_work.cuh"

namespace tessera {
namespace packed_gemv {

// Copies of scales and zeros into stages, by all lanes of a warp. A lane has one tile of every
// strip and, of its rows of scales, every kLaneRows-th.
template <int kBits, PackedSegment kSegment>
class ScaleCopier {
  static constexpr int kZeroBytes = kTileRows * kBits / 8;
  static constexpr int kStripTiles = 2 * kTiles;
  static constexpr int kLaneRows = kWarp / kStripTiles;

 public:
  // `steps` is group_of_step.
  __device__ ScaleCopier(const Params& p, const uint16_t* steps)
      : p_(p), last_group_(static_cast<int>(p.args.packed.groups) - 1), steps_(steps) {}

  // The strip of tiles [first, first + tiles) is the next to be copied from.
  __device__ __forceinline__ void StartStrip(int first, int tiles) {
    const PackedWeight& w = p_.args.packed;
    const int part = LaneIndex() % kStripTiles / kTiles, tile = LaneIndex() % kTiles;
    const PartTiles of(p_.args, first, tiles, part);
    has_tile_ = tile < of.count;
    const int row_of_w = (of.from + tile) * kTileRows;
    scales_ = static_cast<const char*>(w.scales) + row_of_w * 2;
    zeros_ =
        w.zeros == nullptr ? nullptr : static_cast<const char*>(w.zeros) + row_of_w * kBits / 8;
  }

  // Starts to copy those of chunks [chunk, chunk + count), kMost at most, to places `place` and on
  // of the stage at `stage`.
  template <int kMost>
  __device__ __forceinline__ void Copy(uint32_t stage, int chunk, int place, int count) const {
    const int chunk_rows = kSegment == PackedSegment::kBlock ? 1 : p_.plan.chunk_rows;
    const int rows = has_tile_ ? min(count, p_.plan.chunks - chunk) * chunk_rows : 0;
    const int lane_row = LaneIndex() / kStripTiles;
    const int slot = (place * chunk_rows + lane_row) * kStripTiles + LaneIndex() % kStripTiles;
    uint32_t to = stage + p_.plan.scale_offset + slot * (kTileRows * 2);
    uint32_t zeros_to = stage + p_.plan.zero_offset + slot * kZeroBytes;
    const auto copy = [&](int row) {
      const int64_t group = Group(chunk, row);
      CopyAsync16(to, scales_ + group * (p_.args.packed.n * 2), true);
      if (zeros_ != nullptr) {
        const char* const from = zeros_ + group * PackedZeroStride(kBits, p_.args.packed.n);
        CopyAsync4(zeros_to, from);
        if (kBits == 8) CopyAsync4(zeros_to + 4, from + 4);
      }
      to += kLaneRows * kStripTiles * (kTileRows * 2);
      zeros_to += kLaneRows * kStripTiles * kZeroBytes;
    };
    if constexpr (kSegment == PackedSegment::kBlock) {
#pragma unroll
      for (int i = 0; i < (kMost + kLaneRows - 1) / kLaneRows; ++i)
        if (lane_row + i * kLaneRows < rows) copy(lane_row + i * kLaneRows);
    } else {
      for (int row = lane_row; row < rows; row += kLaneRows) copy(row);
    }
  }

 private:
  // Of row `row` of those from chunk `chunk` on.
  __device__ __forceinline__ int Group(int chunk, int row) const {
    int group;
    if constexpr (kSegment == PackedSegment::kBlock) {
      group = static_cast<int>(GroupOfChunk(p_.plan.groups, chunk + row));
    } else {
      group = chunk * p_.plan.chunk_rows + row;
      if (kSegment == PackedSegment::kStep)
        group = group < static_cast<int>(p_.args.k / kPackedStep) ? steps_[group] : 0;
    }
    return min(group, last_group_);  // what lies past k
  }

  const Params& p_;
  const int last_group_;
  const uint16_t* const steps_;
  bool has_tile_ = false;
  const char *scales_ = nullptr, *zeros_ = nullptr;  // of the strip's tile, group 0
};

}  // namespace packed_gemv
}  // namespace tessera
