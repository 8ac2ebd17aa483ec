// The shared memory of the packed product: rings of x and of weights, three of the warps that load,
// which fill them (x and weights by TMA, scales and zeros by bulk copies), and room for outputs.
#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda.h>

#include "kernels/device/barrier.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/device/wgmma.cuh"
#include "kernels/gemm/packed_gemm_config.h"
#include "kernels/gemm/packed_gemm_walk.cuh"
#include "kernels/gemm/packed_weight.h"

namespace tessera {

constexpr int kWarpgroup = 128, kGroupWarps = kWarpgroup / kWarp;
constexpr int kMaxGroups = 4;      // warpgroups that multiply
constexpr int64_t kWordBytes = 4;  // of an element of the weights' map

// Outputs of a warpgroup's 64 rows of W.
__host__ __device__ constexpr int OutputsOfGroup(bool gated) { return gated ? 32 : 64; }

// A block: kGroups warpgroups that multiply 64 rows of W each and, behind them, one that loads. A
// stage has up to kSlots groups of k.
template <int kBitsOf, int kSlotsOf, bool kZerosOf, PackedTile kTile>
struct PackedShape {
  static constexpr bool kZeros = kZerosOf;  // may be others than 2^(bits - 1)
  static constexpr int kBits = kBitsOf, kSlots = kSlotsOf, kTokens = kTile.tokens;
  static constexpr int kRows = kTile.rows, kGroups = kRows / 64;
  static constexpr int kSums = kTokens / 2;  // of a lane
  // Products are of q - zero; their sums over a stage are scaled in fp32.
  static constexpr bool kScaledSums = kSlots == 1 && kTokens <= kPackedScaledTokens;
  static constexpr int kConsumerThreads = kGroups * kWarpgroup;
  static constexpr int kConsumerWarps = kConsumerThreads / kWarp;
  static constexpr int kThreads = kConsumerThreads + kWarpgroup;
  // Registers of a thread: five warpgroups are given 96 each at launch, three 168.
  static constexpr int kConsumerRegisters = kGroups == 2 ? 232 : 112;
  static constexpr int kLoaderRegisters = kGroups == 2 ? 40 : 32;
  static_assert(kGroups == 2 || kGroups == kMaxGroups);

  static constexpr int kSteps = kPackedStageK / kPackedStep;  // of a stage
  static constexpr int kPanels = kPackedStageK / kPanelElements;
  static constexpr int kPanelSteps = kSteps / kPanels;
  static constexpr int kBatch = 2;  // steps that are unpacked together

  // Two rings: panels of x and stages of weights, which are blocks of 64 bytes of each row and
  // kSlots scales and zeros of each row. Zeros of gated rows come in two runs, each from a multiple
  // of 16 bytes on.
  static constexpr int kPanelBytes = kTokens * kPanelRowBytes;
  static constexpr int kXPanels = kTokens <= 32    ? 16
                                  : kTokens == 64  ? (kGroups > 2 ? 8 : 12)
                                  : kTokens == 128 ? 8
                                                   : 4;
  static constexpr int kBlocks = kPackedStageK / PackedBlock(kBits);
  static constexpr int kBlockBytes = kRows * static_cast<int>(kPackedBlockBytes);
  static constexpr int kScaleSlotBytes = kRows * 2;
  static constexpr int kZeroHalfBytes = kRows / 2 * kBits / 8 + 16;
  static constexpr int kZeroSlotBytes = 2 * kZeroHalfBytes;
  static constexpr int kScalesAt = kBlocks * kBlockBytes;
  static constexpr int kZerosAt = kScalesAt + kSlots * kScaleSlotBytes;
  static constexpr int kStageBytes =
      static_cast<int>(AlignUp(kZerosAt + kSlots * kZeroSlotBytes, 128));

  // Outputs on their way to y: a warpgroup's 64 rows by kOutTokens tokens at a time, 16 bits.
  static constexpr int kOutTokens = kTokens < 64 ? kTokens : 64;
  static constexpr int kOutChunks = kTokens / kOutTokens;
  static constexpr int kOutBuffers = std::min(kOutChunks, 2);
  static constexpr int kOutBytes = kOutTokens * kPanelRowBytes;

  static constexpr int kSharedBytes = 227 * 1024, kBarrierBytes = 512;
  static constexpr int kOutAt = kXPanels * kPanelBytes;
  static constexpr int kStagesAt = kOutAt + kGroups * kOutBuffers * kOutBytes;
  static constexpr int kStages =
      std::min(8, (kSharedBytes - kStagesAt - kBarrierBytes) / kStageBytes);
  static constexpr int kBarriersAt = kStagesAt + kStages * kStageBytes;
  static constexpr int kBytes = kBarriersAt + (kStages + kXPanels + kGroups * kOutBuffers) * 16;
  static_assert(kStages >= 3 && kBytes <= kSharedBytes);
};

// Barriers of panels and stages: Full for what was loaded, Free for the warps that have used it; of
// outputs: Ready for the thread that moves them, Filled for the warps that write them.
template <typename Shape>
struct PackedShared {
  uint32_t base;

  __device__ __forceinline__ uint32_t Panel(int i) const { return base + i * Shape::kPanelBytes; }
  __device__ __forceinline__ uint32_t Stage(int i) const {
    return base + Shape::kStagesAt + i * Shape::kStageBytes;
  }
  __device__ __forceinline__ uint32_t Outputs(int i) const {
    return base + Shape::kOutAt + i * Shape::kOutBytes;
  }
  __device__ __forceinline__ uint32_t PanelFull(int i) const {
    return base + Shape::kBarriersAt + i * 16;
  }
  __device__ __forceinline__ uint32_t PanelFree(int i) const { return PanelFull(i) + 8; }
  __device__ __forceinline__ uint32_t Full(int i) const { return PanelFull(Shape::kXPanels + i); }
  __device__ __forceinline__ uint32_t Free(int i) const { return Full(i) + 8; }
  __device__ __forceinline__ uint32_t OutputsReady(int i) const { return Full(Shape::kStages + i); }
  __device__ __forceinline__ uint32_t OutputsFilled(int i) const { return OutputsReady(i) + 8; }

  __device__ __forceinline__ void InitBarriers() const {
    for (int i = 0; i < Shape::kXPanels; ++i) {
      InitBarrier(PanelFull(i), 1);
      InitBarrier(PanelFree(i), Shape::kConsumerWarps);
    }
    for (int i = 0; i < Shape::kStages; ++i) {
      InitBarrier(Full(i), 2);  // blocks; scales and zeros
      InitBarrier(Free(i), Shape::kConsumerWarps);
    }
    for (int i = 0; i < Shape::kGroups * Shape::kOutBuffers; ++i) {
      InitBarrier(OutputsReady(i), 1);
      InitBarrier(OutputsFilled(i), kGroupWarps);
    }
    FenceBarrierInit();
  }
};

// The rows of W of a tile: one run of kRows, or gated two of kRows / 2, n apart.
template <typename Shape>
struct PackedRows {
  int64_t start;  // of the first run
  int runs, count;
  int64_t apart;

  __device__ __forceinline__ PackedRows(const PackedGemmParams& p, int row_tile)
      : runs(p.gated ? 2 : 1), apart(p.gated ? p.n : 0) {
    const int most = Shape::kRows / runs;
    start = int64_t{row_tile} * most;
    count = static_cast<int>(min(int64_t{most}, (p.gated ? p.n : p.rows) - start));
  }
  // Bytes from the last multiple of 16 to where a run's zeros start.
  __device__ __forceinline__ int ZerosOff(int run) const {
    return static_cast<int>((start + run * apart) * Shape::kBits / 8 % 16);
  }
};

// The warps that load, each with its own part of every stage.
template <typename Shape>
class StageLoader {
 public:
  __device__ __forceinline__ StageLoader(const PackedGemmParams& p,
                                         const PackedShared<Shape>& shared)
      : p_(p), shared_(shared) {}

  // One thread.
  __device__ __forceinline__ void LoadInputs(const CUtensorMap& x) {
    WaitForPrevious();
    RingPlace<Shape::kXPanels> place;
    PackedItem item;
    for (int turn = 0; PackedWalk::Item(p_, turn, item); ++turn) {
      int column = item.first * static_cast<int>(kPackedStageK);
      const int end = item.end * static_cast<int>(kPackedStageK);
      for (; column < end; column += kPanelElements) {
        const uint32_t full = shared_.PanelFull(place.at);
        WaitAt(shared_.PanelFree(place.at), place.parity ^ 1);
        ArriveExpecting(full, Shape::kPanelBytes);
        CopyBox(shared_.Panel(place.at), x, column, item.token_tile * Shape::kTokens, full);
        place.Next();
      }
    }
  }

  // One thread. Weights, scales and zeros do not depend on earlier kernels.
  __device__ __forceinline__ void LoadWeights(const CUtensorMap& weights) {
    constexpr int kBlockColumns = static_cast<int>(kPackedTileBytes / kWordBytes);
    const uint64_t policy = p_.weights_once ? EvictFirstPolicy() : EvictNormalPolicy();
    PackedItem item;
    for (int turn = 0; PackedWalk::Item(p_, turn, item); ++turn) {
      const PackedRows<Shape> rows(p_, item.row_tile);
      const int first = static_cast<int>(rows.start / kPackedTileRows);
      const int second = static_cast<int>((rows.start + rows.apart) / kPackedTileRows);
      int column = item.first * Shape::kBlocks * kBlockColumns;
      for (int stage = item.first; stage < item.end; ++stage) {
        const uint32_t full = NextSlot();
        ArriveExpecting(full, Shape::kBlocks * Shape::kBlockBytes);
#pragma unroll
        for (int block = 0; block < Shape::kBlocks; ++block, column += kBlockColumns) {
          const uint32_t to = to_ + block * Shape::kBlockBytes;
          CopyBox(to, weights, column, first, full, policy);
          if (rows.runs > 1)
            CopyBox(to + Shape::kBlockBytes / 2, weights, column, second, full, policy);
        }
      }
    }
  }

  // One warp: each lane a slot of a run of rows.
  __device__ __forceinline__ void LoadScales() {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int run = lane / Shape::kSlots, slot = lane % Shape::kSlots;
    PackedItem item;
    for (int turn = 0; PackedWalk::Item(p_, turn, item); ++turn) {
      const PackedRows<Shape> rows(p_, item.row_tile);
      const bool copies = run < rows.runs && slot < p_.slots;
      const int64_t row = rows.start + run * rows.apart;
      const char* const scales = p_.scales + row * 2;
      const char* const zeros = p_.zeros + row * Shape::kBits / 8 - rows.ZerosOff(run);
      const int scale_bytes = rows.count * 2, zero_bytes = ZeroBytes(rows, run);
      const int bytes = p_.slots * (rows.runs * scale_bytes + ZeroBytes(rows, 0) +
                                    (rows.runs > 1 ? ZeroBytes(rows, 1) : 0));
      for (int stage = item.first; stage < item.end; ++stage) {
        const uint32_t full = NextSlot();
        if (lane == 0) ArriveExpecting(full, bytes);
        __syncwarp();
        if (!copies) continue;
        const int64_t group = Group(stage, slot);
        CopyBulk(to_ + Shape::kScalesAt + slot * Shape::kScaleSlotBytes +
                     run * (Shape::kScaleSlotBytes / 2),
                 scales + group * p_.rows * 2, scale_bytes, full);
        if (p_.zeros != nullptr)
          CopyBulk(
              to_ + Shape::kZerosAt + slot * Shape::kZeroSlotBytes + run * Shape::kZeroHalfBytes,
              zeros + group * p_.zero_stride, zero_bytes, full);
      }
    }
  }

 private:
  // Waits until the next stage's memory, to_, is free; returns what its copies arrive at.
  __device__ __forceinline__ uint32_t NextSlot() {
    WaitAt(shared_.Free(place_.at), place_.parity ^ 1);
    to_ = shared_.Stage(place_.at);
    const uint32_t full = shared_.Full(place_.at);
    place_.Next();
    return full;
  }

  // Up to whole 16 bytes, to which rows of zeros are padded; 0 where there are none.
  __device__ __forceinline__ int ZeroBytes(const PackedRows<Shape>& rows, int run) const {
    if (p_.zeros == nullptr) return 0;
    return (rows.ZerosOff(run) + rows.count * Shape::kBits / 8 + 15) / 16 * 16;
  }

  __device__ __forceinline__ int64_t Group(int stage, int slot) const {
    if (p_.group_of_step != nullptr)
      return p_.group_of_step[min(stage * Shape::kSteps + slot, p_.last_step)];
    const int group = Shape::kSlots > 1 ? stage * p_.slots + slot
                                        : static_cast<int>(__umulhi(2 * stage, p_.group_factor));
    return min(group, p_.last_group);
  }

  const PackedGemmParams& p_;
  const PackedShared<Shape>& shared_;
  RingPlace<Shape::kStages> place_;
  uint32_t to_ = 0;
};

}  // namespace tessera
