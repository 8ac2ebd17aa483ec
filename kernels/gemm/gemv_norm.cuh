// The RMSNorm in front of the few-row kernel (gemv.cu), for x that stays in shared memory.
#pragma once

#include <cstdint>

#include "kernels/device/mma.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/gemm/gemv_stages.cuh"

namespace tessera {
namespace gemv {

// How a block's threads share the rows of x to normalise: whole warps a row, as many as there are.
struct NormShare {
  __device__ explicit NormShare(int t) {
    const int warps_a_row = t == 1 ? 8 : t == 2 ? 4 : t <= 4 ? 2 : 1;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    rows = kGemvWarps / warps_a_row;
    row = warp / warps_a_row;
    part = warp % warps_a_row;
    parts = warps_a_row;
    piece = part * kWarp + static_cast<int>(threadIdx.x) % kWarp;
    step = warps_a_row * kWarp;
  }
  int rows, row;    // rows at a time, and this thread's
  int parts, part;  // warps of a row, and this thread's
  int piece, step;  // a thread's first 16-byte piece of a row, and the way to its next
};

// A thread's first pieces of a row: loads in flight together.
struct NormPieces {
  static constexpr int kCount = 4;
  __device__ __forceinline__ void Load(const void* from, int first, int step, int end) {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      at[i] = first + i * step < end ? static_cast<const uint4*>(from)[first + i * step]
                                     : make_uint4(0, 0, 0, 0);
  }
  uint4 at[kCount];
};

template <typename T>
__device__ __forceinline__ float SumOfSquares(uint4 v, float sum) {
  for (const uint32_t bits : {v.x, v.y, v.z, v.w}) {
    const float2 f = UnpackHalves<T>(bits);
    sum += f.x * f.x + f.y * f.y;
  }
  return sum;
}

template <typename T>
__device__ __forceinline__ uint4 Scaled(uint4 v, float scale, uint4 weight) {
  uint32_t from[4] = {v.x, v.y, v.z, v.w}, by[4] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 f = UnpackHalves<T>(from[j]), m = UnpackHalves<T>(by[j]);
    from[j] = PackHalves<T>(f.x * scale * m.x, f.y * scale * m.y);
  }
  return make_uint4(from[0], from[1], from[2], from[3]);
}

// Brings x's rows to shared memory, normalised where asked, with zeros past k. `weight` holds this
// thread's first pieces of the norm's weight; `scratch` a float a warp and row. Ends with a
// barrier.
template <typename T>
__device__ __forceinline__ void KeepX(const GemvParams& p, const NormShare& share,
                                      const NormPieces& weight, char* xs, float* scratch) {
  const LinearArgs& a = p.args;
  const int pieces = static_cast<int>(a.k / kLaneValues);
  const int padded = static_cast<int>(p.plan.x_stride / 16);
  const int t = static_cast<int>(a.t), batch = NormPieces::kCount * share.step;
  for (int row = share.row; row < t; row += share.rows) {
    auto* out = reinterpret_cast<uint4*>(xs + row * p.plan.x_stride);
    float squares = 0;
    for (int first = share.piece; first < padded; first += batch) {
      NormPieces x;
      x.Load(static_cast<const T*>(a.x) + row * a.k, first, share.step, pieces);
#pragma unroll
      for (int i = 0; i < NormPieces::kCount; ++i) {
        squares = SumOfSquares<T>(x.at[i], squares);
        if (first + i * share.step < padded) out[first + i * share.step] = x.at[i];
      }
    }
    squares = WarpReduce<SumOp>(squares);
    if (threadIdx.x % kWarp == 0) scratch[row * kGemvWarps + share.part] = squares;
  }
  __syncthreads();
  if (a.norm_weight == nullptr) return;
  for (int row = share.row; row < t; row += share.rows) {
    float squares = 0;
    for (int i = 0; i < share.parts; ++i) squares += scratch[row * kGemvWarps + i];
    const float scale = rsqrtf(squares / static_cast<float>(a.k) + a.norm_eps);
    auto* out = reinterpret_cast<uint4*>(xs + row * p.plan.x_stride);
    for (int first = share.piece; first < pieces; first += batch) {
      NormPieces by = weight;
      if (first != share.piece) by.Load(a.norm_weight, first, share.step, pieces);
#pragma unroll
      for (int i = 0; i < NormPieces::kCount; ++i)
        if (first + i * share.step < pieces)
          out[first + i * share.step] = Scaled<T>(out[first + i * share.step], scale, by.at[i]);
    }
  }
  __syncthreads();
}

}  // namespace gemv
}  // namespace tessera
