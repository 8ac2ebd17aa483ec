// What few-row products add to a finished sum and how they store it.
#pragma once

#include <cstdint>

#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/linear.h"

namespace tessera {

__device__ __forceinline__ float Silu(float v) { return __fdividef(v, 1.f + __expf(-v)); }

// What one thread adds to a sum: bias and residual of output n of row `row`.
template <typename T>
__device__ __forceinline__ float Addend(const LinearArgs& a, int row, int64_t n) {
  float sum = 0;
  if (a.bias != nullptr) sum += static_cast<float>(static_cast<const T*>(a.bias)[n]);
  if (a.residual != nullptr)
    sum += static_cast<float>(static_cast<const T*>(a.residual)[row * a.n + n]);
  return sum;
}

// Stores output n of row `row`.
template <typename T>
__device__ __forceinline__ void StoreOutput(const LinearArgs& a, int row, int64_t n, float sum) {
  if (a.y_dtype == DType::kF32) {
    static_cast<float*>(a.y)[row * a.n + n] = sum;
  } else {
    static_cast<T*>(a.y)[row * a.n + n] = FromFloat<T>(sum);
  }
}

}  // namespace tessera
