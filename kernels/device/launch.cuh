// Launches that overlap with the end of the kernel before them (programmatic dependent launch).
#pragma once

#include <cstdint>
#include <utility>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <cuda_runtime.h>

#include "kernels/runtime/cuda_status.h"
#include "kernels/runtime/current_gpu.h"

namespace tessera {

// Waits until the kernels before this one in the stream have finished and their writes are visible.
// A kernel launched through LaunchDependent() calls it in every block before it touches memory that
// an earlier kernel of the stream reads or writes. Does nothing below sm_90.
__device__ __forceinline__ void WaitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel of the stream start its blocks as soon as every block of this one has said
// so or left. It promises nothing about memory: the next kernel still waits with WaitForPrevious().
__device__ __forceinline__ void LetNextStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

// True when the current device runs code in which WaitForPrevious() waits: that of sm_90. Later
// ones compile what is there for sm_80.
inline bool CanLaunchDependent() { return CurrentGpu().is_sm90(); }

// Lets blocks of `kernel` have `bytes` of dynamic shared memory, and gives multiprocessors that run
// it as much as there is: CUDA would size it for these blocks, and those of the kernels around
// would wait outside. kInternal: refused; the message starts with `what`.
template <typename... Params>
absl::Status PrepareShared(const char* what, void (*kernel)(Params...), int64_t bytes) {
  RETURN_IF_CUDA_ERROR(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(bytes)),
                       absl::StrCat(what, ": shared memory"));
  RETURN_IF_CUDA_ERROR(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                            cudaSharedmemCarveoutMaxShared),
                       absl::StrCat(what, ": shared memory carve-out"));
  return absl::OkStatus();
}

// Enqueues `kernel`, whose blocks may start before the kernel ahead of it has finished. kInternal:
// the launch was refused; the message starts with `what`.
template <typename... Params, typename... Args>
absl::Status LaunchDependent(const char* what, void (*kernel)(Params...), const LaunchShape& shape,
                             Args&&... args) {
  cudaLaunchAttribute overlap;
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = &overlap;
  config.numAttrs = CanLaunchDependent() ? 1 : 0;
  return CudaStatus(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), what);
}

}  // namespace tessera
