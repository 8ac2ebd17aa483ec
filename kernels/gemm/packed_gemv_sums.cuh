// How the multiplying warps' sums of a strip come to those that write outputs (packed_gemv.h).
#pragma once

#include <cstdint>

#include "kernels/device/barrier.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/packed_gemv_work.cuh"

namespace tessera {
namespace packed_gemv {

// A place in a ring of slots in shared memory, one for the sums of a strip: [rows of
// x][warps][kPackedStripRows], and behind them, of the first strip, the warps' sums of squares of
// x, [rows of x][warps]. A slot has two barriers: full, then free.
class SumRing {
  static constexpr int kWarps = kPackedGemvWarps;
  static constexpr int kToFree = 8;  // bytes from a slot's full barrier

 public:
  static constexpr int kRowFloats = kWarps * kPackedStripRows;  // of a row of x

  __device__ __forceinline__ SumRing(const PackedGemvPlan& plan, float* slots, uint32_t barriers)
      : plan_(plan), slots_(slots), barriers_(barriers) {}

  // By one thread, ahead of the block's first barrier.
  __device__ __forceinline__ void Init(int writing_warps) const {
    for (int i = 0; i < plan_.sum_slots; ++i) {
      InitBarrier(barriers_ + i * kPackedBarrierBytes, kWarps);
      InitBarrier(barriers_ + i * kPackedBarrierBytes + kToFree, writing_warps);
    }
  }

  // A multiplying warp: waits until the next slot is free, and when it has filled it hands it over.
  __device__ __forceinline__ float* WaitForFree() const {
    WaitAt(Barrier() + kToFree, parity_ ^ 1);
    return Slot();
  }
  __device__ __forceinline__ void HandOver() {
    __syncwarp();
    if (LaneIndex() == 0) ArriveAt(Barrier());
    Next();
  }
  // A writing warp: waits for the next slot, and gives it back.
  __device__ __forceinline__ const float* WaitForFull() const {
    WaitAt(Barrier(), parity_);
    return Slot();
  }
  __device__ __forceinline__ void GiveBack() {
    __syncwarp();
    if (LaneIndex() == 0) ArriveAt(Barrier() + kToFree);
    Next();
  }

 private:
  __device__ __forceinline__ uint32_t Barrier() const {
    return barriers_ + slot_ * kPackedBarrierBytes;
  }
  __device__ __forceinline__ float* Slot() const {
    return slots_ + slot_ * (plan_.sum_slot_bytes / static_cast<int>(sizeof(float)));
  }
  __device__ __forceinline__ void Next() {
    if (++slot_ == plan_.sum_slots) {
      slot_ = 0;
      parity_ ^= 1;
    }
  }

  const PackedGemvPlan& plan_;
  float* const slots_;
  const uint32_t barriers_;
  int slot_ = 0;
  uint32_t parity_ = 0;
};

}  // namespace packed_gemv
}  // namespace tessera
