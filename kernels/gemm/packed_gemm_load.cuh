// The shared memory of the packed product and what fills it: x by TMA, from a producer warp;
// weights, scales and zeros by cp.async, each warp its own.
#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda.h>
#include <cuda_fp16.h>

#include "kernels/device/barrier.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/device/wgmma.cuh"
#include "kernels/gemm/packed_gemm_config.h"
#include "kernels/gemm/packed_gemm_walk.cuh"
#include "kernels/gemm/packed_weight.h"

namespace tessera {

constexpr int kWarpgroup = 128;
constexpr int kMaxGroups = 3;

// A block: kGroups warpgroups of 64 rows of W each and, behind them, one that loads x.
template <int kBitsOf, int kGroupsOf, int kTokensOf>
struct PackedShape {
  static constexpr int kBits = kBitsOf, kGroups = kGroupsOf, kTokens = kTokensOf;
  static constexpr int kRows = 64 * kGroups;
  static constexpr int kSums = kTokens / 2;  // of a lane
  static constexpr int kConsumerThreads = kGroups * kWarpgroup;
  static constexpr int kConsumerWarps = kConsumerThreads / kWarp;
  static constexpr int kThreads = kConsumerThreads + kWarpgroup;
  // Registers of a thread, of as many as the launch gives to all (multiples of 8).
  static constexpr int kProducerRegisters = 24;
  static constexpr int kConsumerRegisters = kGroups == 2 ? 240 : 160;
  static constexpr int kSteps = kPackedStageK / kPackedStep;  // of a stage
  static constexpr int kPanels = kPackedStageK / kPanelElements;
  static constexpr int kPanelSteps = kSteps / kPanels;
  // Steps whose operands a lane unpacks together: two when products are short, so that fewer
  // waits lie between them.
  static constexpr int kBatch = kTokens <= 64 ? 2 : 1;

  // A stage's weights are kPieces of 16 bytes a lane; its scales lie in up to 8 slots a warp, each
  // 16 scales and, behind all scales, 16 bytes of zeros.
  static constexpr int kBlocks = kPackedStageK / PackedBlock(kBits);
  static constexpr int kPieces = 2 * kBlocks;
  static constexpr int kPieceBytes = kConsumerThreads * 16;
  static constexpr int kScaleSlotBytes = 32, kZeroSlotBytes = 16, kSlots = 8;
  static constexpr int kZerosAt = kSlots * kScaleSlotBytes;
  static constexpr int kWarpScaleBytes = kSlots * (kScaleSlotBytes + kZeroSlotBytes);
  static constexpr int kScalesAt = kPieces * kPieceBytes;
  static constexpr int kStageBytes = kScalesAt + kConsumerWarps * kWarpScaleBytes;

  static constexpr int kPanelBytes = kTokens * kPanelRowBytes;
  static constexpr int kXPanels = kTokens == 256 ? 5 : kTokens == 128 ? 6 : 8;
  static constexpr int kSharedBytes = 227 * 1024, kBarrierBytes = 256;
  static constexpr int kWeightsAt = kXPanels * kPanelBytes;
  static constexpr int kStages =
      std::min(8, (kSharedBytes - kWeightsAt - kBarrierBytes) / kStageBytes);
  static constexpr int kBarriersAt = kWeightsAt + kStages * kStageBytes;
  static constexpr int kBytes = kBarriersAt + 2 * kXPanels * 8;
  static_assert(kStages >= 3 && kBytes <= kSharedBytes);
};

template <typename Shape>
struct PackedShared {
  uint32_t base;

  __device__ __forceinline__ uint32_t Panel(int i) const { return base + i * Shape::kPanelBytes; }
  __device__ __forceinline__ uint32_t Stage(int i) const {
    return base + Shape::kWeightsAt + i * Shape::kStageBytes;
  }
  __device__ __forceinline__ uint32_t Full(int i) const {
    return base + Shape::kBarriersAt + i * 16;
  }
  __device__ __forceinline__ uint32_t Free(int i) const { return Full(i) + 8; }

  __device__ __forceinline__ void InitBarriers() const {
    for (int i = 0; i < Shape::kXPanels; ++i) {
      InitBarrier(Full(i), 1);
      InitBarrier(Free(i), Shape::kConsumerWarps);
    }
    FenceBarrierInit();
  }
};

// Keeps the ring of x's panels full; one thread.
template <typename Shape>
__device__ __forceinline__ void LoadPanels(const PackedGemmParams& p, const CUtensorMap& x,
                                           const PackedShared<Shape>& shared) {
  RingPlace<Shape::kXPanels> place;
  PackedWalk walk(p);
  PackedItem item;
  while (walk.Next(p, item)) {
    const int token = item.token_tile * Shape::kTokens;
    for (int panel = item.first * Shape::kPanels; panel < item.end * Shape::kPanels; ++panel) {
      WaitAt(shared.Free(place.at), place.parity ^ 1);
      ArriveExpecting(shared.Full(place.at), Shape::kPanelBytes);
      CopyBox(shared.Panel(place.at), x, panel * kPanelElements, token, shared.Full(place.at));
      place.Next();
    }
  }
}

// Zeros when not `valid`. Bytes are 4 or 8.
template <int kBytes>
__device__ __forceinline__ void CopyAsyncFew(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kBytes),
               "r"(valid ? kBytes : 0)
               : "memory");
}

// A lane multiplies two rows of W, lane / 4 of either half of its warp's 16; this is which of the
// 16. Plain products spread rows over the halves so that a lane ends up with four neighbouring
// outputs (packed_gemm_store.cuh); gated ones take eight gate rows, then their eight up rows.
__device__ __forceinline__ int PackedPlaceInWarp(bool gated, int half, int lane) {
  const int i = lane / 4;
  return gated ? half * 8 + i : i / 2 * 4 + half * 2 + i % 2;
}

// The ring of weights. A lane copies the pieces that it uses itself; some lanes of a warp copy its
// scales and zeros.
template <typename Shape>
class WeightRing {
 public:
  __device__ __forceinline__ WeightRing(const PackedGemmParams& p,
                                        const PackedShared<Shape>& shared)
      : p_(p),
        walk_(p),
        thread_(static_cast<int>(threadIdx.x)),
        policy_(Policy(p.weights_once)),
        ring_(shared.Stage(0)) {}

  __device__ __forceinline__ void Fill() {
    for (int i = 0; i < Shape::kStages - 1; ++i) Issue();
  }

  // Waits for the oldest stage and copies another over the one before it; returns its address. The
  // whole warp.
  __device__ __forceinline__ uint32_t Next() {
    WaitForCopies<Shape::kStages - 2>();
    __syncwarp();
    Issue();
    const uint32_t stage = ring_ + read_ * Shape::kStageBytes;
    if (++read_ == Shape::kStages) read_ = 0;
    return stage;
  }

  __device__ __forceinline__ uint32_t Piece(uint32_t stage, int piece) const {
    return stage + piece * Shape::kPieceBytes + thread_ * 16;
  }
  __device__ __forceinline__ uint32_t Scales(uint32_t stage) const {
    return stage + Shape::kScalesAt + thread_ / kWarp * Shape::kWarpScaleBytes;
  }

 private:
  static __device__ __forceinline__ uint64_t Policy(bool once) {
    uint64_t policy;
    if (once)
      asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    else
      asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
    return policy;
  }

  __device__ __forceinline__ void Issue() {
    if (stage_ == end_) NextItem();
    if (stage_ < end_) {
      const uint32_t to = ring_ + write_ * Shape::kStageBytes;
      const int64_t at = int64_t{stage_} * (Shape::kBlocks * kPackedBlockBytes);
#pragma unroll
      for (int block = 0; block < Shape::kBlocks; ++block) {
        const int64_t byte = at + block * kPackedBlockBytes;
        const bool inside = Shape::kBlocks == 1 || byte < p_.row_bytes;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const bool valid = inside && weights_[half] != nullptr;
          CopyAsync16(Piece(to, block * 2 + half), valid ? weights_[half] + byte : p_.values, valid,
                      policy_);
        }
      }
      IssueScales(to);
      ++stage_;
    }
    CommitCopies();
    if (++write_ == Shape::kStages) write_ = 0;
  }

  // Lane 4 i + part copies slot i: scales of the warp's eight rows `part`, or zeros of eight.
  __device__ __forceinline__ void IssueScales(uint32_t to) {
    const int lane = thread_ % kWarp, slot = lane / 4, part = lane % 4;
    if (slot >= p_.slots || (part >= 2 && p_.zeros == nullptr)) return;
    const bool valid = scales_ != nullptr;
    const char* const from = valid ? scales_ + Group(slot) * scale_stride_ : p_.scales;
    const uint32_t warp = Scales(to);
    if (part < 2)
      CopyAsync16(warp + slot * Shape::kScaleSlotBytes + part * 16, from, valid);
    else
      CopyAsyncFew<Shape::kBits>(
          warp + Shape::kZerosAt + slot * Shape::kZeroSlotBytes + part % 2 * Shape::kBits, from,
          valid);
  }

  __device__ __forceinline__ int64_t Group(int slot) const {
    if (p_.group_of_step != nullptr)
      return p_.group_of_step[min(stage_ * Shape::kSteps + slot, p_.last_step)];
    const int group = p_.slots > 1 ? stage_ * p_.slots + slot
                                   : static_cast<int>(__umulhi(2 * stage_, p_.group_factor));
    return min(group, p_.last_group);
  }

  __device__ __forceinline__ void NextItem() {
    PackedItem item;
    if (!walk_.Next(p_, item)) return;
    stage_ = item.first;
    end_ = item.end;
    const int warp = thread_ / kWarp, lane = thread_ % kWarp, part = lane % 4;
    const int64_t rows_a_warp = p_.gated ? 8 : 16;
    const int64_t first = (int64_t{item.row_tile} * Shape::kConsumerWarps + warp) * rows_a_warp;
    // The rows of W that the second half of a gated tile starts and ends at are n further on.
    const int64_t up = p_.gated ? p_.n : 0, last = p_.gated ? p_.n : p_.rows;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first + PackedPlaceInWarp(p_.gated, half, lane) % rows_a_warp;
      weights_[half] =
          row < last ? p_.values + (row + half * up) * p_.row_bytes + lane % 4 * 16 : nullptr;
    }
    const int64_t start = first + (p_.gated ? 0 : part % 2 * 8);
    const int64_t start_in_w = start + part % 2 * up;
    scale_stride_ = part < 2 ? p_.rows * 2 : p_.zero_stride;
    scales_ = start >= last ? nullptr
              : part < 2    ? p_.scales + start_in_w * 2
                            : p_.zeros + start_in_w * Shape::kBits / 8;
  }

  const PackedGemmParams& p_;
  PackedWalk walk_;
  const int thread_;
  const uint64_t policy_;
  const uint32_t ring_;
  int stage_ = 0, end_ = 0, read_ = 0, write_ = 0;
  const char* weights_[2] = {};
  const char* scales_ = nullptr;
  int64_t scale_stride_ = 0;
};

}  // namespace tessera
