// Which kernel a linear layer runs on, and the scratch it needs. Pure host functions, no CUDA.
#pragma once

#include <cstdint>

#include "kernels/runtime/stream.h"

namespace tessera {

// Scratch bytes that LinearArgs needs for any t in [0, max_t] on `device`, `sm_count` its
// multiprocessors: normalised rows, ungated products, split-k partial sums and the library's own.
// Monotonic in max_t, n and k.
int64_t LinearWorkspaceBytes(Device device, int sm_count, int64_t max_t, int64_t n, int64_t k,
                             bool gated, bool normed);

}  // namespace tessera
