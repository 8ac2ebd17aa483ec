// Sums on the host in an order that every rank repeats exactly.
#pragma once

#include <cstdint>

#include <absl/types/span.h>

#include "common/dtype.h"

namespace tessera {

// out[i] = parts[0][i] + parts[1][i] + ... for i in [0, count), added left to right in fp32 and
// rounded once to `dtype` (a float type). `out` may be one of the parts.
void SumInOrder(absl::Span<const void* const> parts, int64_t count, DType dtype, void* out);

}  // namespace tessera
