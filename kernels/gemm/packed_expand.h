// Packed weights to 16-bit floats in device memory.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/gemm/packed_weight.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// `runs` runs of `rows` rows of a weight: from `first` on, then from `apart` further on.
struct PackedRowRuns {
  int64_t first = 0, rows = 0;
  int64_t runs = 1, apart = 0;

  constexpr int64_t count() const { return runs * rows; }
};

// Writes those rows of w to out, device, [count, w.k] of `dtype` (kBf16 or kF16), aligned to 16
// bytes: (q - zero) * scale, rounded once. Enqueues on `stream`.
// kUnimplemented: another dtype. kInternal: the launch was refused.
absl::Status LaunchPackedExpand(const PackedWeight& w, const PackedRowRuns& rows, void* out,
                                DType dtype, cudaStream_t stream);

}  // namespace tessera
