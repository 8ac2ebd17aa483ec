// A consumer warpgroup's part of prefill_attention_sm90.cu: the softmax and the sums of its 64
// packed query rows.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/attention/prefill_plan.cuh"
#include "kernels/attention/prefill_tile.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/wgmma.cuh"

namespace tessera {

// Rows of a lane: `half` 0 and 1 are eight rows apart (wgmma.cuh). Sums `o`, maxima of the
// scores `m`, this lane's part of the denominators `l`, and the exponentials `p` of the last
// kTokens tokens, as the left operand of the product with the values.
template <typename T, int kE>
struct GroupRows {
  float o[kE / 2];
  float m[2], l[2];
  uint32_t p[kTokens / 4];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < kE / 2; ++i) o[i] = 0.f;
    m[0] = m[1] = -std::numeric_limits<float>::infinity();
    l[0] = l[1] = 0.f;
  }

  // Enqueues s = q k^T. The tiles are of kRows and kTokens rows.
  template <int kRows>
  __device__ __forceinline__ void Scores(uint32_t query, uint32_t keys,
                                         float (&s)[kTokens / 2]) const {
    const uint32_t a = TileDescriptor(query, 0), b = TileDescriptor(keys, 0);
#pragma unroll
    for (int step = 0; step < kE / 16; ++step) {
      const int panel = step * 16 / kPanelElements, inside = step * 16 % kPanelElements * 2;
      RowsTimesRows<T>(s, MatrixDescriptor(a, panel * kRows * kPanelRowBytes + inside),
                       MatrixDescriptor(b, panel * kTokens * kPanelRowBytes + inside), step > 0);
    }
  }

  // Enqueues o += p v.
  __device__ __forceinline__ void AddValues(uint32_t values) {
    const uint32_t b = TileDescriptor(values, kTokens * kPanelRowBytes);
#pragma unroll
    for (int step = 0; step < kTokens / 16; ++step)
      RegisterTimesRows<T>(o, p + step * 4, MatrixDescriptor(b, step * 16 * kPanelRowBytes));
  }

  // What exponents are relative to. A row that sees nothing yet keeps sums of 0 instead of NaN.
  static __device__ __forceinline__ float Base(float max, float scale_log2) {
    return max == -std::numeric_limits<float>::infinity() ? 0.f : max * scale_log2;
  }

  // Takes `s` into the maxima; `factor` is what sums up to here shrink by. Several short chains,
  // here and below: with two or three warps on a scheduler, latency is what the softmax costs.
  __device__ __forceinline__ void Maxima(float scale_log2, const float (&s)[kTokens / 2],
                                         float (&factor)[2]) {
    constexpr int kChains = 4;
    float max[2][kChains];
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float pair = fmaxf(s[j * 4 + half * 2], s[j * 4 + half * 2 + 1]);
        max[half][j % kChains] = j < kChains ? pair : fmaxf(max[half][j % kChains], pair);
      }
    float all[2];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      all[half] = fmaxf(
          m[half], fmaxf(fmaxf(max[half][0], max[half][1]), fmaxf(max[half][2], max[half][3])));
#pragma unroll
    for (int step = 1; step <= 2; ++step)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        all[half] = fmaxf(all[half], __shfl_xor_sync(~0u, all[half], step));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factor[half] = Exp2(m[half] * scale_log2 - Base(all[half], scale_log2));
      m[half] = all[half];
    }
  }

  // Makes `s` the exponentials.
  __device__ __forceinline__ void Exponentials(float scale_log2, float (&s)[kTokens / 2]) const {
    float base[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) base[half] = Base(m[half], scale_log2);
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) s[i] = Exp2(fmaf(s[i], scale_log2, -base[i / 2 % 2]));
  }

  // Makes the exponentials `p`, and shrinks the sums and adds to the denominators.
  __device__ __forceinline__ void Take(const float (&s)[kTokens / 2], const float (&factor)[2]) {
    float sum[2][2] = {};
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* const pair = s + j * 4 + half * 2;
        sum[half][0] += pair[0];
        sum[half][1] += pair[1];
        p[j * 2 + half] = PackHalves<T>(pair[0], pair[1]);
      }
#pragma unroll
    for (int half = 0; half < 2; ++half)
      l[half] = l[half] * factor[half] + (sum[half][0] + sum[half][1]);
#pragma unroll
    for (int i = 0; i < kE / 2; ++i) o[i] *= factor[i / 2 % 2];
  }

  // Rounded to T into the warp's own 16 rows from `row` on of a tile of kRows rows.
  template <int kRows>
  __device__ __forceinline__ void Store(char* to, int row) const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = l[half];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      const float inverse = sum > 0.f ? 1.f / sum : 0.f;  // a row that sees nothing gives zeros
      const int at = row + half * 8 + lane / 4;
#pragma unroll
      for (int j = 0; j < kE / 8; ++j)
        *reinterpret_cast<uint32_t*>(to + PanelBytes<kRows>(at, j) + lane % 4 * 4) =
            PackHalves<T>(o[j * 4 + half * 2] * inverse, o[j * 4 + half * 2 + 1] * inverse);
    }
  }
};

// Scores of tokens that a row must not see become -infinity. `row` is the lane's first; the tile's
// tokens start at `first_token` and end where its last row's do, at `tokens`.
template <int kCount>
__device__ __forceinline__ void Mask(const PrefillTile& tile, const Divisor& group, int row,
                                     int first_token, int tokens, float (&s)[kCount]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int left = min(tile.Visible(row + half * 8, group), tokens) - first_token;
#pragma unroll
    for (int j = 0; j < kCount / 4; ++j)
#pragma unroll
      for (int k = 0; k < 2; ++k)
        if (j * 8 + lane % 4 * 2 + k >= left)
          s[j * 4 + half * 2 + k] = -std::numeric_limits<float>::infinity();
  }
}

}  // namespace tessera
