// RMSNorm, alone or after a residual add.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/gemm/column_places.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// y[i] = weight * x[r] * rsqrt(mean(x[r]^2) + eps) for i in [0, t), r = rows ? rows[i] : i; in
// fp32, rounded to `dtype` once (transformers rounds before the weight too, and is further from
// fp32). With `add`, residual[i] += add[i] first (rounded to `dtype`), and x is the residual.
struct RmsNormArgs {
  const void* x = nullptr;       // [*, d] of `dtype`, device; ignored when `add` is set
  const void* weight = nullptr;  // [d] of `dtype`
  // [t, d] of `dtype`; may be x when rows is null. With copies: one after the other, in their
  // orders, and y is neither x nor residual.
  void* y = nullptr;
  ColumnCopies copies;
  const int32_t* rows =
      nullptr;                // [t] device row numbers of x, or null; a negative one gives zeros
  const void* add = nullptr;  // [t, d] of `dtype`, or null; needs `residual`, excludes `rows`
  void* residual = nullptr;   // [t, d] of `dtype`, read and written when `add` is set
  int64_t t = 0, d = 0;
  float eps = 0.f;
  DType dtype = DType::kF32;
};

// Enqueues on `stream`. kInvalidArgument: negative size, d not a multiple of 8 or above 32768
// (CUDA), `add` without `residual` or with `rows`, more than ColumnCopies::kMax copies, an ordered
// copy narrower than d, of a width that is no multiple of 16 or wider than 24000 (CUDA).
// kUnimplemented: dtype other than kF32 (CPU), kBf16, kF16 (CUDA).
absl::Status RmsNormCpu(const RmsNormArgs& args, const Stream& stream);
absl::Status RmsNormCuda(const RmsNormArgs& args, const Stream& stream);

}  // namespace tessera
