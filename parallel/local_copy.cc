#include "parallel/local_copy.h"

#include <cstring>

#ifdef TESSERA_WITH_CUDA
#include <cuda_runtime_api.h>

#include "kernels/runtime/cuda_status.h"
#endif

namespace tessera {

absl::Status LocalCopy(void* dst, const void* src, int64_t bytes, const Stream& stream) {
  if (bytes == 0 || dst == src) return absl::OkStatus();
  if (stream.device == Device::kCpu) {
    std::memcpy(dst, src, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
#ifdef TESSERA_WITH_CUDA
  return CudaStatus(
      cudaMemcpyAsync(dst, src, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream.cuda),
      "copy of a rank's own part");
#else
  return absl::UnimplementedError("this build has no CUDA back end");
#endif
}

}  // namespace tessera
