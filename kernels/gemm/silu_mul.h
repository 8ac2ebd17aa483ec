// The gate of a feed-forward whose gate and up rows are two matrices.
#pragma once

#include <absl/status/status.h>

#include "kernels/gemm/elementwise.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// Enqueues on `stream`; t = 0 or n = 0 is a no-op. kInvalidArgument: a negative size.
// kUnimplemented: dtype other than kF32 (CPU), kBf16, kF16 (CUDA).
absl::Status SiluMulCpu(const SiluMulArgs& args, const Stream& stream);
absl::Status SiluMulCuda(const SiluMulArgs& args, const Stream& stream);

}  // namespace tessera
