// Barriers in shared memory that warps and TMA copies arrive at, TMA copies themselves, and what
// warp-specialised kernels need beside them (sm_90; NamedWait also below).
#pragma once

#include <cstdint>

#include <cuda.h>

namespace tessera {

// Barriers are named by their 32-bit shared-memory addresses, 8 bytes each.
__device__ __forceinline__ void InitBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// By the thread that made the barriers, ahead of the __syncthreads() that hands them out.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void ArriveAt(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Arrives once this thread's CopyAsync16 calls so far have landed. Readers that are wgmma or TMA
// need a FenceForAsyncReaders() behind their WaitAt().
__device__ __forceinline__ void ArriveAfterCopies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// Arrives, and makes the phase wait for `bytes` of TMA copies too.
__device__ __forceinline__ void ArriveExpecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Waits for the end of the barrier's phase of parity `parity`.
__device__ __forceinline__ void WaitAt(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0)
    asm volatile(
        "{\n\t"
        ".reg .pred done;\n\t"
#if __CUDA_ARCH__ >= 900
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n\t"
#else
        "mbarrier.test_wait.parity.shared.b64 done, [%1], %2;\n\t"
#endif
        "selp.u32 %0, 1, 0, done;\n\t"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
}

// A ring of kCount buffers, walked by each of its users: which is next, and the parity of its turn.
template <int kCount>
struct RingPlace {
  int at = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void Next() {
    if (++at == kCount) {
      at = 0;
      parity ^= 1;
    }
  }
};

// True in one lane of a warp that is here as a whole.
__device__ __forceinline__ bool ElectOne() {
  uint32_t elected;
  asm volatile(
      "{\n\t"
      ".reg .pred one;\n\t"
      "elect.sync _|one, 0xffffffff;\n\t"
      "selp.u32 %0, 1, 0, one;\n\t"
      "}"
      : "=r"(elected));
  return elected != 0;
}

// Copies `bytes` bytes, a multiple of 16 between addresses that are, arriving at `barrier`.
__device__ __forceinline__ void CopyBulk(uint32_t to, const void* from, uint32_t bytes,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// The same under an L2 policy.
__device__ __forceinline__ void CopyBulk(uint32_t to, const void* from, uint32_t bytes,
                                         uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

// Fetches a map that copies will use.
__device__ __forceinline__ void PrefetchMap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Copies the map's box at element `column` of row `row` to `to`, arriving at `barrier`.
__device__ __forceinline__ void CopyBox(uint32_t to, const CUtensorMap& map, int column, int row,
                                        uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// The same under an L2 policy.
__device__ __forceinline__ void CopyBox(uint32_t to, const CUtensorMap& map, int column, int row,
                                        uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(policy)
      : "memory");
}
// The box of a map with depth, at `deep`.
__device__ __forceinline__ void CopyBox(uint32_t to, const CUtensorMap& map, int column, int row,
                                        int deep, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(deep), "r"(barrier), "l"(policy)
      : "memory");
}
// Stores the map's box at element `column` of row `row` from `from`, but for what lies beyond the
// tensor. Stores of a thread are waited for together.
__device__ __forceinline__ void StoreBox(const CUtensorMap& map, int column, int row,
                                         uint32_t from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n\t"
      "cp.async.bulk.commit_group;" ::"l"(&map),
      "r"(column), "r"(row), "r"(from)
      : "memory");
}
// Until this thread's stores have read shared memory.
__device__ __forceinline__ void WaitForStoresToRead() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
// Makes writes to shared memory by ordinary stores and CopyAsync16, this thread's and those that it
// waited for, visible to wgmma and TMA.
__device__ __forceinline__ void FenceForAsyncReaders() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The block's numbered barriers: kThreads threads in all wait or only arrive.
template <int kThreads>
__device__ __forceinline__ void NamedWait(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}
__device__ __forceinline__ void NamedWait(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
template <int kThreads>
__device__ __forceinline__ void NamedArrive(int id) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}

// A warpgroup's registers per thread, from then on.
template <int kRegisters>
__device__ __forceinline__ void ShrinkRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void GrowRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace tessera
