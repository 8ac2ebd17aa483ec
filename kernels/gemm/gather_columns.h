// Moves columns of activations: into the order that a quantized matrix wants its inputs in, or the
// outputs of one of several matrices into the rows they share.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// y[i, j] = x[i, order[j]] for i in [0, t), j in [0, n): 0 where order[j] is negative, x[i, j]
// where `order` is null. order[j] < x_stride. All device memory; x and y do not overlap.
struct GatherColumnsArgs {
  const void* x = nullptr;  // [t, x_stride] of `dtype`
  const int32_t* order = nullptr;
  void* y = nullptr;  // [t, y_stride] of `dtype`
  int64_t t = 0, n = 0, x_stride = 0, y_stride = 0;
  DType dtype = DType::kF32;  // kF32 on the CPU; kBf16 or kF16 on CUDA
};

// Enqueues on `stream`; t = 0 or n = 0 is a no-op. kInvalidArgument: a negative size.
// kUnimplemented: another dtype. kInternal: the launch was refused.
absl::Status GatherColumnsCpu(const GatherColumnsArgs& args, const Stream& stream);
absl::Status GatherColumnsCuda(const GatherColumnsArgs& args, const Stream& stream);

}  // namespace tessera
