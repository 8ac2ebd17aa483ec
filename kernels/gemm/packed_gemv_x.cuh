// How the packed few-row kernel (packed_gemv.cuh) keeps x, normalised where asked, in shared
// memory.
#pragma once

#include <cstdint>

#include "kernels/gemm/gemv_norm.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"

namespace tessera {
namespace packed_gemv {

using gemv::NormPieces;

// x that passes this takes asynchronous copies, whose wait also waits for the ring's first stages.
constexpr int kThroughRegistersBytes = 64 * 1024;

// How a block's warps share the rows of x: so many a row, as many rows at a time as that leaves.
struct RowShare {
  __device__ explicit RowShare(int t) {
    const int warps = static_cast<int>(blockDim.x) / kWarp;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    parts = t == 1 ? warps : t == 2 ? warps / 2 : t <= 4 ? warps / 4 : warps / 8;
    rows = warps / parts;
    row = warp / parts;
    part = warp % parts;
    piece = part * kWarp + static_cast<int>(threadIdx.x) % kWarp;
    step = parts * kWarp;
  }
  int rows, row;    // rows at a time, and this thread's first
  int parts, part;  // warps of a row, and this thread's
  int piece, step;  // a thread's first 16-byte piece of a row, and the way to its next
};

// Brings x's rows to `xs` as they are, with zeros past k up to whole chunks of 128.
template <typename T>
__device__ __forceinline__ void CopyX(const Params& p, uint32_t xs) {
  const LinearArgs& a = p.args;
  const int pieces = static_cast<int>(a.k / 8);
  const int padded = (p.plan.x_stride - 16) / 16;
  const T* x = static_cast<const T*>(a.x);
  const int t = static_cast<int>(a.t);
  // Each block starts at another row: all of them reading the same lines at once waits for those.
  for (int r = 0, row = static_cast<int>(blockIdx.x) % t; r < t; ++r) {
    for (int i = static_cast<int>(threadIdx.x); i < padded; i += static_cast<int>(blockDim.x))
      CopyAsync16(xs + row * p.plan.x_stride + i * 16, i < pieces ? x + row * a.k + i * 8 : x,
                  i < pieces);
    row = row + 1 == t ? 0 : row + 1;
  }
  CommitCopies();
  WaitForCopies<0>();
  __syncthreads();
}

// The same through registers, normalised where asked. `weight` holds this thread's first pieces of
// the norm's weight; `scratch` is a float a warp and row. Ends with a barrier.
template <typename T>
__device__ __forceinline__ void NormX(const Params& p, const RowShare& share,
                                      const NormPieces& weight, char* xs, float* scratch) {
  const LinearArgs& a = p.args;
  const int pieces = static_cast<int>(a.k / 8);
  const int padded = (p.plan.x_stride - 16) / 16;
  const int t = static_cast<int>(a.t), batch = NormPieces::kCount * share.step;
  const bool normed = a.norm_weight != nullptr;
  for (int row = share.row; row < t; row += share.rows) {
    auto* out = reinterpret_cast<uint4*>(xs + row * p.plan.x_stride);
    float squares = 0;
    for (int first = share.piece; first < padded; first += batch) {
      NormPieces x;
      x.Load(static_cast<const T*>(a.x) + row * a.k, first, share.step, pieces);
#pragma unroll
      for (int i = 0; i < NormPieces::kCount; ++i) {
        if (normed) squares = gemv::SumOfSquares<T>(x.at[i], squares);
        if (first + i * share.step < padded) out[first + i * share.step] = x.at[i];
      }
    }
    if (!normed) continue;
    squares = WarpReduce<SumOp>(squares);
    if (threadIdx.x % kWarp == 0) scratch[row * share.parts + share.part] = squares;
  }
  __syncthreads();
  if (!normed) return;
  for (int row = share.row; row < t; row += share.rows) {
    float squares = 0;
    for (int i = 0; i < share.parts; ++i) squares += scratch[row * share.parts + i];
    const float scale = rsqrtf(squares / static_cast<float>(a.k) + a.norm_eps);
    auto* out = reinterpret_cast<uint4*>(xs + row * p.plan.x_stride);
    for (int first = share.piece; first < pieces; first += batch) {
      NormPieces by = weight;
      if (first != share.piece) by.Load(a.norm_weight, first, share.step, pieces);
#pragma unroll
      for (int i = 0; i < NormPieces::kCount; ++i)
        if (first + i * share.step < pieces)
          out[first + i * share.step] =
              gemv::Scaled<T>(out[first + i * share.step], scale, by.at[i]);
    }
  }
  __syncthreads();
}

// x in shared memory for the whole kernel; everything but x itself is read before the wait.
template <typename T>
__device__ __forceinline__ void KeepX(const Params& p, char* xs, float* scratch) {
  const LinearArgs& a = p.args;
  const RowShare share(static_cast<int>(a.t));
  NormPieces weight;
  if (a.norm_weight != nullptr)
    weight.Load(a.norm_weight, share.piece, share.step, static_cast<int>(a.k / 8));
  WaitForPrevious();
  if (a.norm_weight == nullptr && a.t * p.plan.x_stride > kThroughRegistersBytes) {
    CopyX<T>(p, SharedAddress(xs));
  } else {
    NormX<T>(p, share, weight, xs, scratch);
  }
}

}  // namespace packed_gemv
}  // namespace tessera
