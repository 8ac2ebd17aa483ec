// Flags in device memory by which blocks of a launch hand data to each other.
#pragma once

#include <cstdint>

namespace tessera {

__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}
// Memory that this thread has written, or has met the writers of at a barrier, is seen with it.
__device__ __forceinline__ void StoreRelease(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}

// Waits until flag(i) is set for every 32nd i of [first, end), and clears it: a lane's part.
template <typename FlagAt>
__device__ __forceinline__ void TakeFlags(int first, int end, const FlagAt& flag) {
  constexpr int kLanes = 32;
  for (int i = first; i < end; i += kLanes) {
    while (LoadAcquire(flag(i)) == 0) {
    }
    *flag(i) = 0;
  }
}

}  // namespace tessera
