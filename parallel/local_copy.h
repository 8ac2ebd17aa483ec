// The copy of a rank's own part in an AllGather.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "kernels/runtime/stream.h"

namespace tessera {

// dst[bytes] = src[bytes] in the stream's memory, enqueued on it; nothing to do when they are the
// same. kInternal: CUDA refused. kUnimplemented: a CUDA stream in a build without CUDA.
absl::Status LocalCopy(void* dst, const void* src, int64_t bytes, const Stream& stream);

}  // namespace tessera
