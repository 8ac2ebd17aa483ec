// Packed weights on the CPU: a row at a time to fp32, for LinearCpu's dot products.
#pragma once

#include <cstdint>

#include "kernels/gemm/packed_weight.h"

namespace tessera {

// out[j] = scale * (q - zero) of row `row`, j in [0, w.k), exact. w's pointers are host memory.
void UnpackRow(const PackedWeight& w, int64_t row, float* out);

}  // namespace tessera
