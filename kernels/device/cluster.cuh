// Blocks of a cluster: their barrier, and each other's shared memory. Below sm_90 there
// are no clusters: a block is alone, and these do what one block needs.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace tessera {

// The two halves of the cluster's barrier; all threads of all its blocks that have not exited take
// part in both. What a
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

// This block's place in its cluster.
__device__ __forceinline__ uint32_t ClusterRank() {
  uint32_t rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}

// 16 bytes at `local`, an address in this block's shared memory, where they lie in that of block
// `block` of the cluster.
__device__ __forceinline__ float4 LoadFromCluster(uint32_t local, uint32_t block) {
  float4 v = {};
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n\t"
      ".reg .u32 remote;\n\t"
      "mapa.shared::cluster.u32 remote, %4, %5;\n\t"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote];\n\t"
      "}"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(local), "r"(block)
      : "memory");
#endif
  return v;
}

}  // namespace tessera
