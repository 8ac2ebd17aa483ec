// Reductions over a warp and over a block. The order of the operations is fixed, so float sums come
// out the same every time.
#pragma once

#include <cuda_runtime.h>

namespace tessera {

constexpr int kWarp = 32;

struct SumOp {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct MaxOp {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// Every lane gets the result. All 32 lanes take part.
template <typename Op, typename T>
__device__ __forceinline__ T WarpReduce(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2)
    value = Op()(value, __shfl_xor_sync(~0u, value, step));
  return value;
}

// Every thread gets the result. All kThreads threads take part; `scratch` is shared memory of
// kThreads / 32 elements, free for other use when this returns.
template <typename Op, int kThreads, typename T>
__device__ __forceinline__ T BlockReduce(T value, T* scratch) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kThreads % kWarp == 0 && kWarps <= kWarp && (kWarps & (kWarps - 1)) == 0);
  value = WarpReduce<Op>(value);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  // Every warp reduces the same kWarps values; lanes beyond repeat them within groups of kWarps.
  value = scratch[threadIdx.x % kWarps];
  for (int step = kWarps / 2; step > 0; step /= 2)
    value = Op()(value, __shfl_xor_sync(~0u, value, step));
  __syncthreads();
  return value;
}

}  // namespace tessera
