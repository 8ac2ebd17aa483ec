// What kernels are chosen by. For files of the CUDA back end.
#pragma once

#include <cuda_runtime_api.h>

namespace tessera {

struct GpuIdentity {
  int major = 0, minor = 0;  // compute capability
  int sm_count = 0;
  int shared_bytes = 0;  // that a block may have

  bool is_sm90() const { return major == 9 && minor == 0 && sm_count > 0; }
};

// Of the current device; zeros without one. Asked once per process: its devices are of one kind.
inline const GpuIdentity& CurrentGpu() {
  static const GpuIdentity gpu = [] {
    GpuIdentity found;
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return found;
    cudaDeviceGetAttribute(&found.major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&found.minor, cudaDevAttrComputeCapabilityMinor, device);
    cudaDeviceGetAttribute(&found.sm_count, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&found.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    return found;
  }();
  return gpu;
}

}  // namespace tessera
