// Conversion of float arrays on the host.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace tessera {

// dst[i] = src[i] rounded to nearest even. Both are float types; dst may be src when the element
// sizes are equal.
void ConvertFloats(const void* src, DType src_dtype, void* dst, DType dst_dtype, int64_t count);

}  // namespace tessera
