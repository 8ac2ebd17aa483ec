// Scratch of sampling. Pure host functions, no CUDA.
#pragma once

#include <cstdint>

#include "kernels/runtime/stream.h"

namespace tessera {

// Scratch bytes for SampleArgs with up to `max_rows` rows. 0 on the CPU.
int64_t SampleWorkspaceBytes(Device device, int64_t max_rows, int64_t vocab);

}  // namespace tessera
