// Moves the outputs of one of several matrices into the rows that they share.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// y[i * y_stride + j] = x[i, j] for i in [0, t), j in [0, n). All device memory; x and y do not
// overlap.
struct CopyColumnsArgs {
  const void* x = nullptr;  // [t, n] of `dtype`
  void* y = nullptr;        // rows of `dtype`, y_stride apart
  int64_t t = 0, n = 0, y_stride = 0;
  DType dtype = DType::kF32;  // kF32 on the CPU; kBf16 or kF16 on CUDA
};

// Enqueues on `stream`; t = 0 or n = 0 is a no-op. kInvalidArgument: a negative size, or a stride
// below n. kUnimplemented: another dtype. kInternal: the launch was refused.
absl::Status CopyColumnsCpu(const CopyColumnsArgs& args, const Stream& stream);
absl::Status CopyColumnsCuda(const CopyColumnsArgs& args, const Stream& stream);

}  // namespace tessera
