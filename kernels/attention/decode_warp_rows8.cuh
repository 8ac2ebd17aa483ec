// As WarpRows16 in decode_warp.cuh, for up to 8 query rows, which are the columns of the products
// here (k q^T, then v^T p^T): half the products and half the registers, since tiles of 16 rows
// would be half empty.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/attention/decode_warp.cuh"

namespace tessera {

// This lane's rows are c = lane % 4 * 2 and c + 1; `l` is its part of their denominators.
template <typename T, int kE>
struct WarpRows8 {
  static constexpr int kRows = 8;
  static constexpr int kTileBytes = ContextCut::kUnitTokens * kE * 2;

  uint32_t q[kE / 16][2];
  float o[kE / 16][4];  // columns lane / 4 and lane / 4 + 8 of 16, each of rows c and c + 1
  float m[2], l[2];

  // Rows from `rows` on are zeros.
  __device__ __forceinline__ void LoadQuery(const T* rows_of_q, int rows) {
    const int lane = threadIdx.x % kWarp, row = lane / 4;
    const auto* words = reinterpret_cast<const uint32_t*>(rows_of_q) + row * (kE / 2) + lane % 4;
#pragma unroll
    for (int i = 0; i < kE / 16; ++i) {
      q[i][0] = row < rows ? words[i * 8] : 0;
      q[i][1] = row < rows ? words[i * 8 + 4] : 0;
    }
  }

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < kE / 16; ++i) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.f;
    m[0] = m[1] = -std::numeric_limits<float>::infinity();
    l[0] = l[1] = 0.f;
  }

  // Takes the 16 tokens of a stage, of which the first `left` count (all, if more).
  __device__ __forceinline__ void Attend(uint32_t stage, int left, float scale_log2) {
    const int lane = threadIdx.x % kWarp;
    float s[4] = {}, odd[4] = {};  // half of the products in a chain of their own, for latency
#pragma unroll
    for (int i = 0; i < kE / 16; ++i) {
      uint32_t k[4];
      LoadMatrices(stage + SwizzledBytes<kE>(lane % 16, i * 2 + lane / 16), k);
      MultiplyAdd<T>(i % 2 == 0 ? s : odd, k, q[i][0], q[i][1]);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {  // token lane / 4 + j / 2 * 8 of row c + j % 2
      const bool counts = lane / 4 + j / 2 * 8 < left;
      s[j] = counts ? (s[j] + odd[j]) * scale_log2 : -std::numeric_limits<float>::infinity();
    }
    Rescale(s);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      s[j] = Exp2(s[j] - m[j % 2]);
      l[j % 2] += s[j];
    }
    const uint32_t p0 = TransposeMatrix(PackHalves<T>(s[0], s[1]));
    const uint32_t p1 = TransposeMatrix(PackHalves<T>(s[2], s[3]));
    const int row = lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int j = 0; j < kE / 16; ++j) {
      uint32_t v[4];
      LoadMatricesTransposed(stage + kTileBytes + SwizzledBytes<kE>(row, j * 2 + (lane / 8 & 1)),
                             v);
      MultiplyAdd<T>(o[j], v, p0, p1);
    }
  }

  // Leaves the sums in `sums` and each row's maximum and denominator in `states`.
  __device__ __forceinline__ void Publish(int rows, float* sums, float2* states) const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = lane % 4 * 2 + i;
      float sum = l[i];
      for (int step = 4; step < kWarp; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (row >= rows) continue;
      if (lane < 4) states[row] = {m[i], sum};
#pragma unroll
      for (int j = 0; j < kE / 16; ++j) {
        sums[SumAt<kE>(row, j * 16 + lane / 4)] = o[j][i];
        sums[SumAt<kE>(row, j * 16 + lane / 4 + 8)] = o[j][i + 2];
      }
    }
  }

 private:
  // Brings the state to a maximum that covers `s` too.
  __device__ __forceinline__ void Rescale(const float (&s)[4]) {
    float max[2] = {fmaxf(s[0], s[2]), fmaxf(s[1], s[3])};
#pragma unroll
    for (int step = 4; step < kWarp; step *= 2) {
      max[0] = fmaxf(max[0], __shfl_xor_sync(~0u, max[0], step));
      max[1] = fmaxf(max[1], __shfl_xor_sync(~0u, max[1], step));
    }
    if (!__any_sync(~0u, max[0] > m[0] || max[1] > m[1])) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      max[i] = fmaxf(max[i], m[i]);
      const float factor = Exp2(m[i] - max[i]);
      m[i] = max[i];
      l[i] *= factor;
#pragma unroll
      for (int j = 0; j < kE / 16; ++j) o[j][i] *= factor, o[j][i + 2] *= factor;
    }
  }
};

}  // namespace tessera
