// What a warp of the packed few-row kernel (packed_gemv.h) does with a chunk of a stage.
#pragma once

#include <cstdint>

#include <cuda_fp16.h>

#include "kernels/device/mma.cuh"
#include "kernels/device/unpack.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"

namespace tessera {
namespace packed_gemv {

// A warp's sums of a strip. w is the 16-row operand, a pair of tiles, and x the 8 columns: the
// lane's elements of a pair are, as in d of mma m16n8k16, rows of w lane / 4 of either tile by rows
// of x lane % 4 * 2 and the next.
template <PackedGemvForm kForm>
struct StripSums {
  static constexpr int kPairs = PackedGemvPairs(kForm);
  float at[kPairs][4] = {};

  // Writes them to `to`, [t][row_floats].
  __device__ __forceinline__ void Store(float* to, int t, const PackedGemvPlan& plan) const {
    const int lane = LaneIndex();
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const int row = lane % 4 * 2 + column;
      if (row >= t) continue;
      float* place = to + row * plan.row_floats + lane / 4;
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        place[0] = at[pair][column];
        place[plan.sum_at.odd] = at[pair][2 + column];
        place += plan.sum_at.step;
      }
    }
  }
};

// Where a lane finds its parts of a chunk in shared memory.
struct ChunkView {
  uint32_t weights, scales, zeros;  // of the first pair's first tile
  int odd_zeros;                    // from a pair's first tile's zeros to its second's
  uint32_t x;                       // ldmatrix row of the chunk's first step
};

// The B fragments of a chunk's steps of 16 k.
template <int kSteps>
__device__ __forceinline__ void LoadX(uint32_t at, uint32_t (&x)[kSteps][2]) {
#pragma unroll
  for (int s = 0; s < kSteps; s += 2) {
    uint32_t both[4];
    LoadMatrices(at + s * 32, both);
    x[s][0] = both[0], x[s][1] = both[1];
    x[s + 1][0] = both[2], x[s + 1][1] = both[3];
  }
}

// Multiplies chunks, with what stays the same for all of them.
template <int kBits, PackedSegment kSegment, bool kZeros, PackedGemvForm kForm>
class ChunkProduct {
  static constexpr int kSteps = static_cast<int>(PackedBlock(kBits) / kPackedStep);
  static constexpr int kSegmentSteps = kSegment == PackedSegment::kBlock      ? kSteps
                                       : kSegment == PackedSegment::kTwoSteps ? 2
                                                                              : 1;
  static constexpr int kSegments = kSteps / kSegmentSteps;
  static constexpr int kStepsAWord = 8 / kBits;
  static constexpr int kChains = kSegmentSteps == 1 ? 1 : 2;  // of products
  static constexpr int kZeroBytes = kTileRows * kBits / 8;    // of a tile

 public:
  // x, f16, lies at `xs` in shared memory. Rows past t repeat row 0: what they give is not used.
  __device__ ChunkProduct(const Params& p, uint32_t xs)
      : plan_(p.plan), up_tiles_(p.args.gated ? static_cast<int>(p.args.n) / kTileRows : 0) {
    const int t = static_cast<int>(p.args.t), row = LaneIndex() % 8;
    x_ = xs + (row < t ? row : 0) * plan_.x_stride + LaneIndex() / 8 * 16;
  }

  // Where this lane finds what it takes of a strip, from tile `tile` of w on.
  class Place {
   public:
    __device__ Place(const ChunkProduct& product, int tile)
        : plan_(product.plan_), x_(product.x_), odd_zeros_(plan_.zero_at.odd) {
      weights_ = static_cast<uint32_t>(threadIdx.x) * 16;
      scales_ = plan_.scale_offset + LaneIndex() / 4 * 2;
      const int zeros = tile * kZeroBytes % 16;
      zeros_ = plan_.zero_offset + zeros + LaneIndex() / 4 * kBits / 8;
      if (product.up_tiles_ > 0) odd_zeros_ += (tile + product.up_tiles_) * kZeroBytes % 16 - zeros;
    }
    // The warp's chunk of the stage at `stage`, `chunk` of x, its scales from the stage's row
    // `scale_row` on.
    __device__ __forceinline__ ChunkView At(uint32_t stage, int chunk, int scale_row) const {
      return {.weights = stage + weights_,
              .scales = stage + scales_ + scale_row * plan_.scale_row_bytes,
              .zeros = stage + zeros_ + scale_row * plan_.zero_row_bytes,
              .odd_zeros = odd_zeros_,
              .x = x_ + chunk * (kSteps * static_cast<int>(kPackedStep) * 2)};
    }

   private:
    const PackedGemvPlan& plan_;
    const uint32_t x_;
    uint32_t weights_, scales_, zeros_;
    int odd_zeros_;
  };

  // Adds a chunk's products to `sums`: integers less zero points times x on the tensor cores,
  // segment by segment, then the scale in fp32.
  __device__ __forceinline__ void Add(ChunkView at, StripSums<kForm>& sums) const {
    uint32_t x[kSteps][2];
    LoadX(at.x, x);
#pragma unroll
    for (int pair = 0; pair < StripSums<kForm>::kPairs; ++pair) {
      const uint4 low = LoadShared16(at.weights);
      const uint4 high = LoadShared16(at.weights + plan_.weight_at.odd);
      const uint32_t low_words[4] = {low.x, low.y, low.z, low.w};
      const uint32_t high_words[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
      for (int segment = 0; segment < kSegments; ++segment) {
        // Two segments may share a row.
        const int row = kSegment == PackedSegment::kTwoSteps && plan_.chunk_rows < kSegments
                            ? segment / 2
                            : segment;
        const uint32_t scales = at.scales + row * plan_.scale_row_bytes;
        const uint32_t zeros = at.zeros + row * plan_.zero_row_bytes;
        const float scale[2] = {Scale(scales), Scale(scales + plan_.scale_at.odd)};
        float products[kChains][4] = {};
        MultiplySegment(low_words, high_words, segment, Unpacker<kBits>(Zero(zeros)),
                        Unpacker<kBits>(Zero(zeros + at.odd_zeros)), x, products);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float sum = products[0][j];
          if (kChains > 1) sum += products[kChains - 1][j];
          sums.at[pair][j] += scale[j / 2] * sum;
        }
      }
      at.weights += plan_.weight_at.step;
      at.scales += plan_.scale_at.step;
      at.zeros += plan_.zero_at.step;
    }
  }

 private:
  static __device__ __forceinline__ void MultiplySegment(
      const uint32_t (&low_words)[4], const uint32_t (&high_words)[4], int segment,
      const Unpacker<kBits>& unpack_low, const Unpacker<kBits>& unpack_high,
      const uint32_t (&x)[kSteps][2], float (&products)[kChains][4]) {
#pragma unroll
    for (int i = 0; i < kSegmentSteps; ++i) {
      const int step = segment * kSegmentSteps + i;
      uint32_t low[kStepsAWord][2], high[kStepsAWord][2];  // a step that is not used costs nothing
      unpack_low(low_words[step / kStepsAWord], low);
      unpack_high(high_words[step / kStepsAWord], high);
      const int at = step % kStepsAWord;
      MultiplyAdd<__half>(products[i % kChains], {low[at][0], high[at][0], low[at][1], high[at][1]},
                          x[step][0], x[step][1]);
    }
  }

  static __device__ __forceinline__ float Scale(uint32_t at) {
    return __half2float(__ushort_as_half(LoadShared2(at)));
  }
  __device__ __forceinline__ uint32_t Zero(uint32_t at) const {
    if (!kZeros) return 1u << (kBits - 1);
    const uint32_t byte = LoadShared1(at);
    return kBits == 8 ? byte : byte >> (LaneIndex() / 4 % 2 * 4) & 0xf;
  }

  const PackedGemvPlan& plan_;
  const int up_tiles_;  // gated: tiles of w ahead of up's
  uint32_t x_;          // the lane's ldmatrix row
};

}  // namespace packed_gemv
}  // namespace tessera
