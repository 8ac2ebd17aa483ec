// Adds a partial result to the residual stream where no norm follows (the end of a pipeline stage).
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// residual[i] += add[i], summed in fp32 and rounded to `dtype`.
struct ResidualAddArgs {
  const void* add = nullptr;  // [count] of `dtype`, device; no overlap with residual
  void* residual = nullptr;   // [count] of `dtype`, device
  int64_t count = 0;
  DType dtype = DType::kF32;
};

// Enqueues on `stream`; a count of zero is a no-op. kInvalidArgument: negative count.
// kUnimplemented: dtype other than kF32 (CPU), kBf16, kF16 (CUDA).
absl::Status ResidualAddCpu(const ResidualAddArgs& args, const Stream& stream);
absl::Status ResidualAddCuda(const ResidualAddArgs& args, const Stream& stream);

}  // namespace tessera
