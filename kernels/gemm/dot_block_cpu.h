// Dot products of fp32 rows with weight rows of any float type, the core of LinearCpu.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace tessera {

// out[i * row_count + j] = sum over k of x[i, k] * rows[j][k], i in [0, t), j in [0, row_count).
// Element k is summed in lane k % 16 of 16 fp32 partial sums, in rising k, and the lanes are added
// as a tree (8, 4, 2, 1 apart): the result depends on the two rows only, not on t or row_count.
struct DotBlockArgs {
  const float* x = nullptr;           // [t, k], contiguous
  const void* const* rows = nullptr;  // [row_count] pointers to [k] weights
  float* out = nullptr;               // [t, row_count]
  int64_t t = 0, k = 0, row_count = 0;
};

// The fastest version for this machine's vector width (AVX-512, AVX2 with FMA, or the build's
// default). `weight_dtype` must be a float type.
using DotBlockFn = void (*)(const DotBlockArgs&);
DotBlockFn DotBlockFor(DType weight_dtype);

}  // namespace tessera
