// Small kernels around the many-row product.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// y[t, n] = silu(both[t, i]) * both[t, n + i] for i in [0, n), computed in fp32.
struct SiluMulArgs {
  const void* both = nullptr;  // device, [t, 2n] of `dtype`
  void* y = nullptr;           // device, [t, n] of `y_dtype`
  int64_t t = 0, n = 0;
  int64_t y_stride = 0;          // elements between rows of y; 0: n
  DType dtype = DType::kBf16;    // kBf16 or kF16
  DType y_dtype = DType::kBf16;  // `dtype` or kF32
};

// y[t, n] = bias[n] + residual[t, n] in fp32: what a product with fp32 outputs is added to.
struct SeedOutputsArgs {
  const void* bias = nullptr;      // device, [n] of `dtype`, or null
  const void* residual = nullptr;  // device, [t, n] of `dtype`, or null
  float* y = nullptr;              // device
  int64_t t = 0, n = 0;
  DType dtype = DType::kBf16;  // kBf16 or kF16
};

// Enqueue on `stream`. kUnimplemented: another dtype. kInternal: the launch was refused.
absl::Status LaunchSiluMul(const SiluMulArgs& args, cudaStream_t stream);
absl::Status LaunchSeedOutputs(const SeedOutputsArgs& args, cudaStream_t stream);

}  // namespace tessera
