// Packed weights to 16-bit floats in device memory.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/gemm/packed_weight.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// Writes rows [first_row, first_row + rows) of w to out, device, [rows, w.k] of `dtype` (kBf16 or
// kF16), aligned to 16 bytes: (q - zero) * scale, rounded once. Enqueues on `stream`.
// kUnimplemented: another dtype. kInternal: the launch was refused.
absl::Status LaunchPackedExpand(const PackedWeight& w, int64_t first_row, int64_t rows, void* out,
                                DType dtype, cudaStream_t stream);

}  // namespace tessera
