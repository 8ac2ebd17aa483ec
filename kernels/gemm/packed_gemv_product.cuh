// What a warp of the packed few-row kernel (packed_gemv.h) does with a chunk of a stage.
#pragma once

#include <cstdint>

#include <cuda_fp16.h>

#include "kernels/device/bits.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/packed_gemv_work.cuh"
#include "kernels/gemm/packed_gemv_x.cuh"

namespace tessera {
namespace packed_gemv {

// A warp's sums of a strip. w is the 16-row operand, tile i of either part a pair, and x the 8
// columns. As in d of mma m16n8k32 a lane has rows of w lane / 4 of either tile by two columns:
// rows lane % 4 * 2 and the next of x (kWide), or digits 0 and 1 (lane % 4 = 0) or 2 (1).
template <PackedGemvForm kForm>
struct StripSums {
  static constexpr int kPairs = kPackedGemvPairs;
  float at[kPairs][4] = {};

  // Writes them to `to`, [parts][tiles][8], the next row of x's `row_floats` behind.
  __device__ __forceinline__ void Store(float* to, int t, int row_floats) const {
    const int quad = LaneIndex() % 4;
    to += LaneIndex() / 4;
    if constexpr (PackedGemvWide(kForm)) {
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const int row = quad * 2 + column;
        if (row >= t) continue;
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair)
          StorePair(to + row * row_floats, pair, at[pair][column], at[pair][2 + column]);
      }
    } else {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const float low = Whole(at[pair][0], at[pair][1]), high = Whole(at[pair][2], at[pair][3]);
        if (quad == 0) StorePair(to, pair, low, high);
      }
    }
  }

 private:
  static __device__ __forceinline__ void StorePair(float* to, int pair, float low, float high) {
    to[pair * kTileRows] = low;
    to[(kPairs + pair) * kTileRows] = high;
  }
  // With digit 2, which the next lane has.
  static __device__ __forceinline__ float Whole(float first, float second) {
    return first + kDigitBase * (second + kDigitBase * __shfl_down_sync(~0u, first, 1));
  }
};

// Multiplies chunks, with what stays the same for all of them.
template <int kBits, PackedSegment kSegment, bool kZeros, PackedGemvForm kForm>
class ChunkProduct {
  static constexpr bool kWide = PackedGemvWide(kForm);
  static constexpr int kPairs = kPackedGemvPairs;
  using Layout = XLayout<kBits>;
  static constexpr int kProducts = static_cast<int>(PackedBlock(kBits)) / 32;  // of 32 k
  static constexpr int kSegments = kSegment == PackedSegment::kBlock      ? 1
                                   : kSegment == PackedSegment::kTwoSteps ? kProducts
                                                                          : kProducts * 2;
  static constexpr int kSegmentProducts = kSegments > kProducts ? 1 : kProducts / kSegments;
  static constexpr int kOperands = kWide ? kPackedXDigits : 1;  // of x, for a product
  // Pairs whose products alternate, where there are registers for it: one waits for the tensor
  // cores while the other's operands are made.
  static constexpr int kAtOnce = kForm == PackedGemvForm::kLarge ? kPairs : 1;
  static constexpr int kPartBytes = kPairs * kPackedGemvWarps * kTileBytes;
  static constexpr int kZeroRow = PackedZeroRow(kBits);
  static constexpr int kMiddle = 1 << (kBits - 1);
  // 4 bits are multiplied as 16 (q - 8), the upper half of a byte; 8 bits as q - 128.
  static constexpr int kUnit = kBits == 4 ? 16 : 1;

 public:
  // Columns of no row or digit repeat another: what they give is not used.
  __device__ __forceinline__ explicit ChunkProduct(const Params& p)
      : p_(p), t_(RowsOf<kForm>(p)), warp_(WarpIndex()) {
    const int column = LaneIndex() / 4, quad = LaneIndex() % 4;
    const int row = kWide ? min(column, t_ - 1) : 0;
    x_ = row * Layout::kChunk + quad * 16;
    for (int half = 0; half < Layout::kHalves; ++half)
      for (int o = 0; o < kOperands; ++o)
        x_at_[half][o] = Layout::At(half, kWide ? o : min(column, kPackedXDigits - 1), row);
    unit_ = kWide ? min(quad * 2, t_ - 1) * 4 : 0;
    next_unit_ = kWide ? min(quad * 2 + 1, t_ - 1) * 4 : 0;
    weights_ = warp_ * kTileBytes + LaneIndex() * 16;
    const int first_row = warp_ * (kSegment == PackedSegment::kBlock ? 1 : p.plan.chunk_rows);
    scales_ = p.plan.scale_offset + first_row * kPackedScaleRow + LaneIndex() / 4 * 2;
    zeros_ = p.plan.zero_offset + first_row * kZeroRow;
  }

  // Adds the products of the warp's chunk of the stage at `stage`, x's digits being at `place`:
  // integers on the tensor cores, segment by segment, then the scales in fp32.
  __device__ __forceinline__ void Add(uint32_t stage, XPlace place, StripSums<kForm>& sums) const {
    uint32_t x[kOperands][kProducts][2];
    LoadX(place.digits, x);
    float unit[2];
    unit[0] = __uint_as_float(LoadShared4(place.units + unit_));
    unit[1] = kWide ? __uint_as_float(LoadShared4(place.units + next_unit_)) : unit[0];
    int of_x[kSegments][kOperands][2];  // sums of x, which zero points multiply
    if (kZeros) SumX(x, of_x);
    const uint32_t scales = stage + scales_, zeros = stage + zeros_;
#pragma unroll
    for (int first = 0; first < kPairs; first += kAtOnce) {
      uint4 low[kAtOnce], high[kAtOnce];  // the words of w of a pair's tiles
      uint32_t scale_bits[kAtOnce][2];
#pragma unroll
      for (int a = 0; a < kAtOnce; ++a) {
        const uint32_t at = stage + weights_ + (first + a) * (kPackedGemvWarps * kTileBytes);
        low[a] = LoadShared16(at), high[a] = LoadShared16(at + kPartBytes);
        if (kSegments == 1) LoadScales(scales, first + a, scale_bits[a]);
      }
#pragma unroll
      for (int segment = 0; segment < kSegments; ++segment) {
        // Two segments may share a row.
        const int row = kSegment == PackedSegment::kTwoSteps && p_.plan.chunk_rows < kSegments
                            ? segment / 2
                            : segment;
        float products[kAtOnce][kOperands][4];
#pragma unroll
        for (int o = 0; o < kOperands; ++o) {
          int sum[kAtOnce][4];
#pragma unroll
          for (int a = 0; a < kAtOnce; ++a)
#pragma unroll
            for (int j = 0; j < 4; ++j) sum[a][j] = kMagicBits;
#pragma unroll
          for (int i = 0; i < kSegmentProducts; ++i)
#pragma unroll
            for (int a = 0; a < kAtOnce; ++a) {
              uint32_t w[4];
              Operand(low[a], high[a], ProductOf(segment, i), w);
              Multiply(w, x[o], segment, i, sum[a]);
            }
#pragma unroll
          for (int a = 0; a < kAtOnce; ++a) {
            int minus[2] = {};
            if (kZeros) Minus(zeros + row * kZeroRow, first + a, minus);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              if (kZeros) sum[a][j] += minus[j / 2] * of_x[segment][o][j % 2];
              products[a][o][j] = __int_as_float(sum[a][j]) - kMagic;
            }
          }
        }
#pragma unroll
        for (int a = 0; a < kAtOnce; ++a) {
          if (kSegments > 1) LoadScales(scales + row * kPackedScaleRow, first + a, scale_bits[a]);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            float whole = products[a][kOperands - 1][j];
#pragma unroll
            for (int o = kOperands - 2; o >= 0; --o) whole = products[a][o][j] + kDigitBase * whole;
            const float scale =
                __half2float(__ushort_as_half(static_cast<uint16_t>(scale_bits[a][j / 2])));
            sums.at[first + a][j] += scale * unit[j % 2] * whole;
          }
        }
      }
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
      const uint32_t mask = kBits == 4 ? (first ? 0x00ff00ffu : 0xff00ff00u) : first ? ~0u : 0u;
      b0 &= mask;
      b1 &= kBits == 4 ? mask : ~mask;
    }
    MultiplyAddBytes(sum, w, b0, b1, sum);
  }

  // Each segment's sums of the lane's columns of x: products with ones.
  static __device__ __forceinline__ void SumX(const uint32_t (&x)[kOperands][kProducts][2],
                                              int (&of_x)[kSegments][kOperands][2]) {
    constexpr uint32_t kOnes[4] = {0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u};
#pragma unroll
    for (int segment = 0; segment < kSegments; ++segment)
#pragma unroll
      for (int o = 0; o < kOperands; ++o) {
        int sum[4] = {};
#pragma unroll
        for (int i = 0; i < kSegmentProducts; ++i) Multiply(kOnes, x[o], segment, i, sum);
        of_x[segment][o][0] = sum[0], of_x[segment][o][1] = sum[1];
      }
  }

  __device__ __forceinline__ void LoadX(uint32_t at, uint32_t (&x)[kOperands][kProducts][2]) const {
#pragma unroll
    for (int o = 0; o < kOperands; ++o)
#pragma unroll
      for (int i = 0; i < Layout::kHalves; ++i) {
        const uint4 words = LoadShared16(at + x_ + x_at_[i][o]);
        x[o][2 * i][0] = words.x, x[o][2 * i][1] = words.y;
        x[o][2 * i + 1][0] = words.z, x[o][2 * i + 1][1] = words.w;
      }
  }

  // The 16-row operand of one of a chunk's products, from the lane's words of a pair's tiles.
  static __device__ __forceinline__ void Operand(const uint4& low, const uint4& high, int product,
                                                 uint32_t (&w)[4]) {
    const uint32_t low_words[4] = {low.x, low.y, low.z, low.w};
    const uint32_t high_words[4] = {high.x, high.y, high.z, high.w};
    if (kBits == 4) {
      w[0] = UpperHalves(low_words[product] << 4), w[2] = UpperHalves(low_words[product]);
      w[1] = UpperHalves(high_words[product] << 4), w[3] = UpperHalves(high_words[product]);
    } else {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        w[2 * j] = low_words[(2 * product + j) % 4] ^ 0x80808080u;
        w[2 * j + 1] = high_words[(2 * product + j) % 4] ^ 0x80808080u;
      }
    }
  }
  // 16 (q - 8) of the upper four bits of each byte.
  static __device__ __forceinline__ uint32_t UpperHalves(uint32_t word) {
    return AndXor(word, 0xf0f0f0f0u, 0x80808080u);
  }

  // Those of the lane's rows of a pair, from the row of scales at `at`.
  static __device__ __forceinline__ void LoadScales(uint32_t at, int pair, uint32_t (&bits)[2]) {
#pragma unroll
    for (int part = 0; part < 2; ++part)
      bits[part] = LoadShared2(at + part * (kPackedScaleRow / 2) + pair * (kTileRows * 2));
  }

  // What the lane's rows of a pair have to multiply the sums of x by, from the row of zeros at
  // `at`.
  static __device__ __forceinline__ void Minus(uint32_t at, int pair, int (&minus)[2]) {
    const int row = LaneIndex() / 4;
    if constexpr (kBits == 4 && kSegment == PackedSegment::kBlock) {  // the row with one load
      const uint4 all = LoadShared16(at);
      const uint32_t words[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
      for (int part = 0; part < 2; ++part)
        minus[part] = MinusOf(words[part * kPairs + pair] >> (row * 4) & 0xf);
    } else {
#pragma unroll
      for (int part = 0; part < 2; ++part)
        minus[part] = MinusOf(Zero(at, (part * kPairs + pair) * kTileRows + row));
    }
  }
  static __device__ __forceinline__ uint32_t Zero(uint32_t at, int row) {
    const uint32_t byte = LoadShared1(at + row * kBits / 8);
    return kBits == 8 ? byte : byte >> (row % 2 * 4) & 0xf;
  }
  static __device__ __forceinline__ int MinusOf(uint32_t zero) {
    return (kMiddle - static_cast<int>(zero)) * kUnit;
  }

  const Params& p_;
  const int t_, warp_;
  int x_, x_at_[Layout::kHalves][kOperands];  // the lane's words of a chunk, from a half of a digit
  int unit_, next_unit_;                      // of the lane's rows of x
  int weights_, scales_, zeros_;              // the lane's first in a stage
};

}  // namespace packed_gemv
}  // namespace tessera
