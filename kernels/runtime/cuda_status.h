// CUDA's error codes as absl::Status. For files of the CUDA back end.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/string_view.h>
#include <cuda_runtime_api.h>

namespace tessera {

// OK for cudaSuccess. Else "what: cudaErrorName: CUDA's text"; kResourceExhausted for an allocation
// that did not fit, kInternal for everything else.
absl::Status CudaStatus(cudaError_t error, absl::string_view what);

}  // namespace tessera

// Returns the Status of a CUDA call from the enclosing function unless it succeeded.
#define RETURN_IF_CUDA_ERROR(call, what)                         \
  do {                                                           \
    const cudaError_t tessera_cuda_error_ = (call);              \
    if (tessera_cuda_error_ != cudaSuccess)                      \
      return ::tessera::CudaStatus(tessera_cuda_error_, (what)); \
  } while (false)
