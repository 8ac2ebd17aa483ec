// Blocks of a cluster: their barrier and stores to each other's shared memory. Below sm_90 there
// are no clusters: a block is alone, and these do what one block needs.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace tessera {

// The two halves of the cluster's barrier; all threads of all its blocks take part in both. What a
// thread wrote before arriving is visible to all after waiting.
__device__ __forceinline__ void ClusterArrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void ClusterWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}

// Stores `value` where `mine`, in this block's shared memory, lies in block `block` of the cluster.
__device__ __forceinline__ void StoreInCluster(float* mine, uint32_t block, float value) {
#if __CUDA_ARCH__ >= 900
  const auto local = static_cast<uint32_t>(__cvta_generic_to_shared(mine));
  asm volatile(
      "{\n\t"
      ".reg .u32 remote;\n\t"
      "mapa.shared::cluster.u32 remote, %0, %1;\n\t"
      "st.shared::cluster.f32 [remote], %2;\n\t"
      "}" ::"r"(local),
      "r"(block), "f"(value)
      : "memory");
#else
  *mine = value;
#endif
}

}  // namespace tessera
