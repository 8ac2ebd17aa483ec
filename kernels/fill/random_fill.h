// Dummy weights: random values that depend on the tensor's name and the element's global index
// only, so that every sharding of a model holds the same numbers.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// dst[r, c] of a [rows, cols] block = offset + scale * u(key, (first_row + r) * row_stride +
// first_col + c), u uniform in [-1, 1) from a counter hash (fill_math.h has the exact formula).
// Summed in fp64, rounded to fp32, then to `dtype`, to nearest even: the same bits on CPU and CUDA.
struct RandomFillArgs {
  void* dst = nullptr;  // device, rows of `dst_stride` elements
  int64_t rows = 0, cols = 0, dst_stride = 0;
  int64_t first_row = 0, first_col = 0, row_stride = 0;  // place of the block in the global tensor
  uint64_t key = 0;                                      // hash of the tensor's name
  float scale = 0.f, offset = 0.f;
  DType dtype = DType::kF32;  // any float type
};

// Enqueues on `stream`. kInvalidArgument: negative size. kUnimplemented: not a float type.
absl::Status RandomFillCpu(const RandomFillArgs& args, const Stream& stream);
absl::Status RandomFillCuda(const RandomFillArgs& args, const Stream& stream);

// The key of a tensor name: 64-bit FNV-1a, stable across runs and machines.
uint64_t TensorKey(const char* name, int64_t length);

}  // namespace tessera
