#include <absl/strings/str_cat.h>

#include "kernels/runtime/cpu_runtime.h"
#include "kernels/runtime/runtime.h"
#ifdef TESSERA_WITH_CUDA
#include "kernels/runtime/cuda_runtime.h"
#endif

namespace tessera {

absl::StatusOr<std::unique_ptr<Runtime>> NewRuntime(const RuntimeOptions& options) {
  if (options.device == Device::kCpu) {
    if (options.cpu_threads < 1)
      return absl::InvalidArgumentError(
          absl::StrCat("cpu: ", options.cpu_threads, " threads asked for, 1 or more needed"));
    return NewCpuRuntime(options.cpu_threads);
  }
#ifdef TESSERA_WITH_CUDA
  return NewCudaRuntime(options.device_index);
#else
  return absl::UnimplementedError("this build has no CUDA back end");
#endif
}

}  // namespace tessera
