// What a warp of the packed few-row kernel (packed_gemv.cuh) does with a chunk of a stage.
#pragma once

#include <cstdint>

#include <cuda_fp16.h>

#include "kernels/device/mma.cuh"
#include "kernels/device/unpack.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"

namespace tessera {
namespace packed_gemv {

// A warp's sums of a strip. w is the 16-row operand, a pair of tiles, and x the 8 columns (twice
// when wide): the lane's elements of a pair are, as in d of mma m16n8k16, rows of w lane / 4 of
// either tile by rows of x lane % 4 * 2 and the next.
template <bool kWide>
struct StripSums {
  static constexpr int kPairs = kPackedGemvMaxPairs, kRuns = kWide ? 2 : 1;
  float at[kPairs][kRuns][4] = {};

  // Writes them to `to`, [t][row_floats].
  __device__ __forceinline__ void Store(float* to, int t, const PackedGemvPlan& plan) const {
    const int lane = LaneIndex();
#pragma unroll
    for (int r = 0; r < kRuns; ++r)
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const int row = r * 8 + lane % 4 * 2 + column;
        if (row >= t) continue;
        float* place = to + row * plan.row_floats + lane / 4;
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          if (pair >= plan.pairs) break;
          place[0] = at[pair][r][column];
          place[plan.sum_at.odd] = at[pair][r][2 + column];
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

// The B fragments of a chunk's steps of 16 k: rows 0 to 7 of x and, when wide, 8 to 15, which lie
// `high` bytes behind.
template <int kSteps, int kRuns>
__device__ __forceinline__ void LoadX(uint32_t at, int high, uint32_t (&x)[kRuns][kSteps][2]) {
#pragma unroll
  for (int r = 0; r < kRuns; ++r)
#pragma unroll
    for (int s = 0; s < kSteps; s += 2) {
      uint32_t both[4];
      LoadMatrices(at + r * high + s * 32, both);
      x[r][s][0] = both[0], x[r][s][1] = both[1];
      x[r][s + 1][0] = both[2], x[r][s + 1][1] = both[3];
    }
}

// Multiplies chunks, with what stays the same for all of them.
template <int kBits, PackedSegment kSegment, bool kWide>
class ChunkProduct {
  static constexpr int kSteps = static_cast<int>(PackedBlock(kBits) / kPackedStep);
  static constexpr int kSegmentSteps = kSegment == PackedSegment::kBlock      ? kSteps
                                       : kSegment == PackedSegment::kTwoSteps ? 2
                                                                              : 1;
  static constexpr int kSegments = kSteps / kSegmentSteps;
  static constexpr int kStepsAWord = 8 / kBits;
  static constexpr int kRuns = kWide ? 2 : 1;
  static constexpr int kChains = kWide || kSegmentSteps == 1 ? 1 : 2;  // of products
  static constexpr int kZeroBytes = kTileRows * kBits / 8;             // of a tile

 public:
  // x, f16, lies at `xs` in shared memory. Rows past t repeat row 0: what they give is not used.
  __device__ ChunkProduct(const Params& p, uint32_t xs)
      : plan_(p.plan),
        zeros_(p.plan.zero_row_bytes > 0),
        up_tiles_(p.args.gated ? static_cast<int>(p.args.n) / kTileRows : 0) {
    const int t = static_cast<int>(p.args.t), row = LaneIndex() % 8;
    x_ = xs + (row < t ? row : 0) * plan_.x_stride + LaneIndex() / 8 * 16;
    high_ = ((row + 8 < t ? row + 8 : 0) - (row < t ? row : 0)) * plan_.x_stride;
  }

  // Chunk `chunk` of x and w, the warp's of the stage at `stage`, from tile `tile` of w on; its
  // scales begin in row `scale_row` of the stage's.
  __device__ __forceinline__ ChunkView View(uint32_t stage, int chunk, int tile,
                                            int scale_row) const {
    const int zeros = tile * kZeroBytes % 16;
    const int up_zeros = (tile + up_tiles_) * kZeroBytes % 16;
    return {.weights = stage + threadIdx.x * 16,
            .scales = stage + plan_.scale_offset + scale_row * plan_.scale_row_bytes +
                      LaneIndex() / 4 * 2,
            .zeros = stage + plan_.zero_offset + scale_row * plan_.zero_row_bytes + zeros +
                     LaneIndex() / 4 * kBits / 8,
            .odd_zeros = plan_.zero_at.odd + (up_tiles_ > 0 ? up_zeros - zeros : 0),
            .x = x_ + chunk * (kSteps * static_cast<int>(kPackedStep) * 2)};
  }

  // Adds a chunk's products to `sums`: integers less zero points times x on the tensor cores,
  // segment by segment, then the scale in fp32.
  __device__ __forceinline__ void Add(ChunkView at, StripSums<kWide>& sums) const {
    uint32_t x[kRuns][kSteps][2];
    LoadX(at.x, high_, x);
#pragma unroll
    for (int pair = 0; pair < StripSums<kWide>::kPairs; ++pair) {
      if (pair >= plan_.pairs) break;
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
        float products[kChains][kRuns][4] = {};
        MultiplySegment(low_words, high_words, segment, Unpacker<kBits>(Zero(zeros)),
                        Unpacker<kBits>(Zero(zeros + at.odd_zeros)), x, products);
#pragma unroll
        for (int r = 0; r < kRuns; ++r)
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            float sum = products[0][r][j];
            if (kChains > 1) sum += products[kChains - 1][r][j];
            sums.at[pair][r][j] += scale[j / 2] * sum;
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
      const uint32_t (&x)[kRuns][kSteps][2], float (&products)[kChains][kRuns][4]) {
#pragma unroll
    for (int i = 0; i < kSegmentSteps; ++i) {
      const int step = segment * kSegmentSteps + i;
      uint32_t low[kStepsAWord][2], high[kStepsAWord][2];  // a step that is not used costs nothing
      unpack_low(low_words[step / kStepsAWord], low);
      unpack_high(high_words[step / kStepsAWord], high);
      const int at = step % kStepsAWord;
#pragma unroll
      for (int r = 0; r < kRuns; ++r)
        MultiplyAdd<__half>(products[i % kChains][r],
                            {low[at][0], high[at][0], low[at][1], high[at][1]}, x[r][step][0],
                            x[r][step][1]);
    }
  }

  static __device__ __forceinline__ float Scale(uint32_t at) {
    return __half2float(__ushort_as_half(LoadShared2(at)));
  }
  __device__ __forceinline__ uint32_t Zero(uint32_t at) const {
    if (!zeros_) return 1u << (kBits - 1);
    const uint32_t byte = LoadShared1(at);
    return kBits == 8 ? byte : byte >> (LaneIndex() / 4 % 2 * 4) & 0xf;
  }

  const PackedGemvPlan& plan_;
  const bool zeros_;
  const int up_tiles_;  // gated: tiles of w ahead of up's
  uint32_t x_;          // the lane's ldmatrix row of x's first eight rows
  int high_;            // from there to its row of the others
};

}  // namespace packed_gemv
}  // namespace tessera
