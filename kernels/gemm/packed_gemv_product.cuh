// What a warp of the packed few-row kernel (packed_gemv.h) does with a chunk of a stage.
#pragma once

#include <cstdint>

#include <cuda_fp16.h>

#include "kernels/device/mma.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"
#include "kernels/gemm/packed_gemv_x.cuh"

namespace tessera {
namespace packed_gemv {

// A warp's sums of a strip. w is the 16-row operand, a pair of tiles, and x the 8 columns. As in d
// of mma m16n8k32 a lane has rows of w lane / 4 of either tile by two columns: rows lane % 4 * 2
// and the next of x (kWide), or digits 0 and 1 (even lanes) or 2 of row lane % 4 / 2.
template <PackedGemvForm kForm>
struct StripSums {
  static constexpr bool kWide = PackedGemvWide(kForm);
  static constexpr int kPairs = PackedGemvPairs(kForm);
  float at[kPairs][4] = {};

  // Writes them to `to`, [t][row_floats].
  __device__ __forceinline__ void Store(float* to, int t, const PackedGemvPlan& plan) const {
    const int quad = LaneIndex() % 4;
    if constexpr (kWide) {
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const int row = quad * 2 + column;
        if (row >= t) continue;
        float* place = to + row * plan.row_floats + LaneIndex() / 4;
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          place[0] = at[pair][column];
          place[plan.sum_at.odd] = at[pair][2 + column];
          place += plan.sum_at.step;
        }
      }
    } else {
      to += quad / 2 * plan.row_floats + LaneIndex() / 4;
      const bool mine = quad % 2 == 0 && quad / 2 < t;
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const float low = Whole(at[pair][0], at[pair][1]), high = Whole(at[pair][2], at[pair][3]);
        if (mine) to[0] = low, to[plan.sum_at.odd] = high;
        to += plan.sum_at.step;
      }
    }
  }

 private:
  // In even lanes: with digit 2, which the next lane has.
  static __device__ __forceinline__ float Whole(float first, float second) {
    return first + kDigitBase * (second + kDigitBase * __shfl_down_sync(~0u, first, 1));
  }
};

// Where a lane finds its parts of a chunk in shared memory.
struct ChunkView {
  uint32_t weights, scales, zeros;  // of the first pair's first tile
  int odd_zeros;                    // from a pair's first tile's zeros to its second's
  int chunk;                        // of x
};

// Multiplies chunks, with what stays the same for all of them.
template <int kBits, PackedSegment kSegment, bool kZeros, PackedGemvForm kForm>
class ChunkProduct {
  static constexpr bool kWide = PackedGemvWide(kForm);
  static constexpr int kPairs = PackedGemvPairs(kForm);
  using Layout = XLayout<kBits, kWide>;
  static constexpr int kProducts = static_cast<int>(PackedBlock(kBits)) / 32;  // of 32 k
  static constexpr int kSegments = kSegment == PackedSegment::kBlock      ? 1
                                   : kSegment == PackedSegment::kTwoSteps ? kProducts
                                                                          : kProducts * 2;
  static constexpr int kSegmentProducts = kSegments > kProducts ? 1 : kProducts / kSegments;
  static constexpr int kOperands = kWide ? kPackedXDigits : 1;  // of x, for a product
  static constexpr int kZeroBytes = kTileRows * kBits / 8;      // of a tile
  static constexpr int kMiddle = 1 << (kBits - 1);
  // 4 bits are multiplied as 16 (q - 8), the upper half of a byte; 8 bits as q - 128.
  static constexpr int kUnit = kBits == 4 ? 16 : 1;

 public:
  // x and its scales lie at `xs` and `x_scales` in shared memory. Columns of no row repeat another:
  // what they give is not used.
  __device__ ChunkProduct(const Params& p, uint32_t xs, uint32_t x_scales)
      : plan_(p.plan),
        t_(static_cast<int>(p.args.t)),
        up_tiles_(p.args.gated ? static_cast<int>(p.args.n) / kTileRows : 0) {
    const int column = LaneIndex() / 4, quad = LaneIndex() % 4;
    const int slot =
        kWide ? min(column, t_ - 1)
              : Layout::Slot(min(column / 4, t_ - 1), min(column % 4, kPackedXDigits - 1), t_);
    x_ = xs + slot * Layout::kHalf + quad * 16;
    const int row = kWide ? quad * 2 : quad / 2;
    x_scale_ = x_scales + min(row, t_ - 1) * 4;
    next_scale_ = min(row + 1, t_ - 1) * 4 - min(row, t_ - 1) * 4;
  }

  // Where this lane finds what it takes of a strip, from tile `tile` of w on.
  class Place {
   public:
    __device__ Place(const ChunkProduct& product, int tile)
        : plan_(product.plan_), odd_zeros_(plan_.zero_at.odd) {
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
              .chunk = chunk};
    }

   private:
    const PackedGemvPlan& plan_;
    uint32_t weights_, scales_, zeros_;
    int odd_zeros_;
  };

  // Adds a chunk's products to `sums`: integers on the tensor cores, segment by segment, then the
  // scales in fp32.
  __device__ __forceinline__ void Add(ChunkView at, StripSums<kForm>& sums) const {
    uint32_t x[kOperands][kProducts][2];
    LoadX(at.chunk, x);
    float x_scale[2];
    const uint32_t scale_at = x_scale_ + at.chunk * t_ * 4;
    x_scale[0] = __uint_as_float(LoadShared4(scale_at));
    x_scale[1] = kWide ? __uint_as_float(LoadShared4(scale_at + next_scale_)) : x_scale[0];
    int of_x[kSegments][kOperands][2];  // sums of x, which zero points multiply
    if (kZeros) {
#pragma unroll
      for (int segment = 0; segment < kSegments; ++segment)
#pragma unroll
        for (int o = 0; o < kOperands; ++o) {
          constexpr uint32_t kOnes[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
          int sum[4] = {};
#pragma unroll
          for (int i = 0; i < kSegmentProducts; ++i) Multiply(kOnes, x[o], segment, i, sum);
          of_x[segment][o][0] = sum[0], of_x[segment][o][1] = sum[1];
        }
    }
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      uint32_t w[kProducts][4];
      LoadW(at.weights, w);
#pragma unroll
      for (int segment = 0; segment < kSegments; ++segment) {
        // Two segments may share a row.
        const int row = kSegment == PackedSegment::kTwoSteps && plan_.chunk_rows < kSegments
                            ? segment / 2
                            : segment;
        const uint32_t scales = at.scales + row * plan_.scale_row_bytes;
        const uint32_t zeros = at.zeros + row * plan_.zero_row_bytes;
        const float scale[2] = {Scale(scales), Scale(scales + plan_.scale_at.odd)};
        float products[kOperands][4];
#pragma unroll
        for (int o = 0; o < kOperands; ++o) {
          int sum[4] = {kMagicBits, kMagicBits, kMagicBits, kMagicBits};
          if (kZeros) {
            const int minus[2] = {(kMiddle - Zero(zeros)) * kUnit,
                                  (kMiddle - Zero(zeros + at.odd_zeros)) * kUnit};
#pragma unroll
            for (int j = 0; j < 4; ++j) sum[j] += minus[j / 2] * of_x[segment][o][j % 2];
          }
#pragma unroll
          for (int i = 0; i < kSegmentProducts; ++i)
            Multiply(w[ProductOf(segment, i)], x[o], segment, i, sum);
#pragma unroll
          for (int j = 0; j < 4; ++j) products[o][j] = __int_as_float(sum[j]) - kMagic;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float whole = products[kOperands - 1][j];
#pragma unroll
          for (int o = kOperands - 2; o >= 0; --o) whole = products[o][j] + kDigitBase * whole;
          sums.at[pair][j] += scale[j / 2] * x_scale[j % 2] * whole;
        }
      }
      at.weights += plan_.weight_at.step;
      at.scales += plan_.scale_at.step;
      at.zeros += plan_.zero_at.step;
    }
  }

 private:
  static constexpr __device__ int ProductOf(int segment, int i) {
    return kSegments > kProducts ? segment / 2 : segment * kSegmentProducts + i;
  }

  // sum += w x for product `i` of a segment: 32 k, or of ragged ones 16 of these.
  static __device__ __forceinline__ void Multiply(const uint32_t (&w)[4],
                                                  const uint32_t (&x)[kProducts][2], int segment,
                                                  int i, int (&sum)[4]) {
    const int product = ProductOf(segment, i);
    uint32_t b0 = x[product][0], b1 = x[product][1];
    if (kSegments > kProducts) {
      // 4 bits: two steps lie in turns in a word (packed_weight.h). 8 bits: a word each.
      const bool first = segment % 2 == 0;
      const uint32_t mask0 = kBits == 4 ? (first ? 0x00ff00ffu : 0xff00ff00u) : first ? ~0u : 0u;
      b0 &= mask0;
      b1 &= kBits == 4 ? mask0 : ~mask0;
    }
    MultiplyAddBytes(sum, w, b0, b1, sum);
  }

  __device__ __forceinline__ void LoadX(int chunk, uint32_t (&x)[kOperands][kProducts][2]) const {
    const int half = t_ * kPackedXDigits * Layout::kHalf;
    const uint32_t at = x_ + chunk * (half * Layout::kHalves);
#pragma unroll
    for (int o = 0; o < kOperands; ++o)
#pragma unroll
      for (int i = 0; i < Layout::kHalves; ++i) {
        const uint4 words = LoadShared16(at + i * half + o * t_ * Layout::kHalf);
        x[o][2 * i][0] = words.x, x[o][2 * i][1] = words.y;
        x[o][2 * i + 1][0] = words.z, x[o][2 * i + 1][1] = words.w;
      }
  }

  // The 16-row operands of a chunk's products.
  __device__ __forceinline__ void LoadW(uint32_t at, uint32_t (&w)[kProducts][4]) const {
    const uint4 low = LoadShared16(at), high = LoadShared16(at + plan_.weight_at.odd);
    const uint32_t low_words[4] = {low.x, low.y, low.z, low.w};
    const uint32_t high_words[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < kProducts; ++i) {
      if (kBits == 4) {
        w[i][0] = UpperHalves(low_words[i] << 4), w[i][2] = UpperHalves(low_words[i]);
        w[i][1] = UpperHalves(high_words[i] << 4), w[i][3] = UpperHalves(high_words[i]);
      } else {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          w[i][2 * j] = low_words[2 * i + j] ^ 0x80808080u;
          w[i][2 * j + 1] = high_words[2 * i + j] ^ 0x80808080u;
        }
      }
    }
  }
  // 16 (q - 8) of the upper four bits of each byte.
  static __device__ __forceinline__ uint32_t UpperHalves(uint32_t word) {
    return (word & 0xf0f0f0f0u) ^ 0x80808080u;
  }

  static __device__ __forceinline__ float Scale(uint32_t at) {
    return __half2float(__ushort_as_half(LoadShared2(at)));
  }
  static __device__ __forceinline__ int Zero(uint32_t at) {
    const uint32_t byte = LoadShared1(at);
    return static_cast<int>(kBits == 8 ? byte : byte >> (LaneIndex() / 4 % 2 * 4) & 0xf);
  }

  const PackedGemvPlan& plan_;
  const int t_;
  const int up_tiles_;  // gated: tiles of w ahead of up's
  uint32_t x_;          // the lane's first words of chunk 0
  uint32_t x_scale_;    // of the lane's first row, chunk 0
  int next_scale_;      // from there to its second row's
};

}  // namespace packed_gemv
}  // namespace tessera
