// The many-row linear product, by cuBLASLt.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// y[t, n] = x[t, k] * w[n, k]^T + bias[n] + c[t, n], summed in fp32. Device, row-major.
struct GemmArgs {
  const void* x = nullptr;     // of `dtype`
  const void* w = nullptr;     // of `dtype`
  const void* bias = nullptr;  // [n] of `dtype`, or null; needs y_dtype == dtype
  const void* c = nullptr;     // of `y_dtype`, or null; may be y
  void* y = nullptr;           // of `y_dtype`
  int64_t t = 0, n = 0, k = 0;
  int64_t y_stride = 0;          // elements between rows of y and of c; 0: n
  DType dtype = DType::kBf16;    // kBf16 or kF16
  DType y_dtype = DType::kBf16;  // `dtype` or kF32
  void* workspace = nullptr;     // device, aligned to 256 bytes
  int64_t workspace_bytes = 0;
};

// Enqueues the product. The library's handle is made at a device's first call, its choice of
// algorithm at the first call of a (t bucket, n, k, ...): later calls only launch. Results are the
// same every time (no atomics on sums). Safe from several threads.
// kUnimplemented: the library knows no algorithm. kInternal: it or CUDA refused a call.
absl::Status CublasLtGemm(const GemmArgs& args, cudaStream_t stream);

// The number of rows whose algorithm t rows use: t rounded up to a step of an eighth to a quarter.
int64_t GemmRowBucket(int64_t t);

}  // namespace tessera
