// The shared memory of the packed product, a ring of stages, and the warp that fills it: x and
// weights by TMA, scales and zeros by bulk copies.
#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda.h>

#include "kernels/device/barrier.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/wgmma.cuh"
#include "kernels/gemm/packed_gemm_config.h"
#include "kernels/gemm/packed_gemm_walk.cuh"
#include "kernels/gemm/packed_weight.h"

namespace tessera {

constexpr int kWarpgroup = 128;
constexpr int kMaxGroups = 4;  // warpgroups that multiply

// A block: kRowGroups x kDepthGroups warpgroups that multiply and, behind them, one whose first
// warp loads. A warpgroup has 64 rows of W and every kDepthGroups-th stage. A stage has up to
// kSlots groups of k.
template <int kBitsOf, int kSlotsOf, PackedTile kTile>
struct PackedShape {
  static constexpr int kBits = kBitsOf, kSlots = kSlotsOf, kTokens = kTile.tokens;
  static constexpr int kRowGroups = kTile.rows / 64, kDepthGroups = kMaxGroups / kRowGroups;
  static constexpr int kRows = 64 * kRowGroups;
  static constexpr int kSums = kTokens / 2;                      // of a lane
  static constexpr int kOwnerThreads = kRowGroups * kWarpgroup;  // depth group 0: has the outputs
  static constexpr int kOwnerWarps = kOwnerThreads / kWarp;
  static constexpr int kConsumerThreads = kDepthGroups * kOwnerThreads;
  static constexpr int kThreads = kConsumerThreads + kWarpgroup;
  // Registers of a thread: five warpgroups are given 96 each at launch.
  static constexpr int kConsumerRegisters = 112, kLoaderRegisters = 32;
  static_assert(kRowGroups * 64 == kTile.rows && kRowGroups * kDepthGroups == kMaxGroups);

  static constexpr int kSteps = kPackedStageK / kPackedStep;  // of a stage
  static constexpr int kPanels = kPackedStageK / kPanelElements;
  static constexpr int kBatch = 2;  // steps that are unpacked together

  // A stage: panels of x; blocks of 64 bytes of each row; kSlots scales and zeros of each row.
  // Zeros of gated rows come in two runs, each from a multiple of 16 bytes on.
  static constexpr int kBlocks = kPackedStageK / PackedBlock(kBits);
  static constexpr int kPanelBytes = kTokens * kPanelRowBytes;
  static constexpr int kBlockBytes = kRows * static_cast<int>(kPackedBlockBytes);
  static constexpr int kScaleSlotBytes = kRows * 2;
  static constexpr int kZeroHalfBytes = kRows / 2 * kBits / 8 + 16;
  static constexpr int kZeroSlotBytes = 2 * kZeroHalfBytes;
  static constexpr int kBlocksAt = kPanels * kPanelBytes;
  static constexpr int kScalesAt = kBlocksAt + kBlocks * kBlockBytes;
  static constexpr int kZerosAt = kScalesAt + kSlots * kScaleSlotBytes;
  static constexpr int kStageBytes =
      static_cast<int>(AlignUp(kZerosAt + kSlots * kZeroSlotBytes, 1024));

  // Sums that depth group 1 hands over at a time: 16 of each thread.
  static constexpr int kHandedSums = 16;
  static constexpr int kHandedBytes = (kDepthGroups - 1) * kOwnerThreads * kHandedSums * 4;
  static constexpr int kSharedBytes = 227 * 1024, kBarrierBytes = 256;
  static constexpr int kStages =
      std::min(8, (kSharedBytes - kHandedBytes - kBarrierBytes) / kStageBytes) / kDepthGroups *
      kDepthGroups;
  static constexpr int kHandedAt = kStages * kStageBytes;
  static constexpr int kBarriersAt = kHandedAt + kHandedBytes;
  static constexpr int kBytes = kBarriersAt + 2 * kStages * 8;
  static_assert(kStages >= 3 && kDepthGroups <= 2 && kBytes <= kSharedBytes);
};

// A stage's barriers: Full for what was loaded, Free for the warps that have used it.
template <typename Shape>
struct PackedShared {
  uint32_t base;

  __device__ __forceinline__ uint32_t Stage(int i) const { return base + i * Shape::kStageBytes; }
  __device__ __forceinline__ uint32_t Handed() const { return base + Shape::kHandedAt; }
  __device__ __forceinline__ uint32_t Full(int i) const {
    return base + Shape::kBarriersAt + i * 16;
  }
  __device__ __forceinline__ uint32_t Free(int i) const { return Full(i) + 8; }

  __device__ __forceinline__ void InitBarriers() const {
    for (int i = 0; i < Shape::kStages; ++i) {
      InitBarrier(Full(i), 1);
      InitBarrier(Free(i), Shape::kOwnerWarps);
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

// Steps through the stages of a block's items.
struct PackedStages {
  int turn = -1, stage = -1;
  PackedItem item = {};

  __device__ __forceinline__ bool Next(const PackedGemmParams& p) {
    if (++stage < item.end) return true;
    if (!PackedWalk::Item(p, ++turn, item)) return false;
    stage = item.first;
    return true;
  }
};

// The loading warp; all lanes call.
template <typename Shape>
class StageLoader {
 public:
  __device__ __forceinline__ StageLoader(const PackedGemmParams& p, const CUtensorMap& x,
                                         const CUtensorMap& weights,
                                         const PackedShared<Shape>& shared)
      : p_(p),
        x_(x),
        weights_(weights),
        shared_(shared),
        policy_(Policy(p.weights_once)),
        lane_(static_cast<int>(threadIdx.x) % kWarp) {}

  // Weights do not depend on earlier kernels: those of the first stages load while these run.
  __device__ __forceinline__ void LoadAll() const {
    PackedStages weights, inputs;
    int filled = 0;
    for (; filled < Shape::kStages && weights.Next(p_); ++filled) LoadWeights(weights, filled);
    WaitForPrevious();
    for (int i = 0; i < filled; ++i) {
      inputs.Next(p_);
      LoadInputs(inputs, i);
    }
    if (filled < Shape::kStages) return;
    RingPlace<Shape::kStages> place;
    while (weights.Next(p_)) {
      WaitAt(shared_.Free(place.at), place.parity);
      LoadWeights(weights, place.at);
      LoadInputs(weights, place.at);
      place.Next();
    }
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

  __device__ __forceinline__ void LoadInputs(const PackedStages& at, int slot) const {
    if (lane_ != 0) return;
#pragma unroll
    for (int panel = 0; panel < Shape::kPanels; ++panel)
      CopyBox(shared_.Stage(slot) + panel * Shape::kPanelBytes, x_,
              (at.stage * Shape::kPanels + panel) * kPanelElements,
              at.item.token_tile * Shape::kTokens, shared_.Full(slot));
  }

  // And what the stage's barrier waits for, x included.
  __device__ __forceinline__ void LoadWeights(const PackedStages& at, int slot) const {
    const PackedRows<Shape> rows(p_, at.item.row_tile);
    const uint32_t full = shared_.Full(slot), stage = shared_.Stage(slot);
    if (lane_ == 0) {
      int bytes = Shape::kPanels * Shape::kPanelBytes + Shape::kBlocks * Shape::kBlockBytes;
      for (int run = 0; run < rows.runs; ++run)
        bytes += p_.slots * (rows.count * 2 + (p_.zeros != nullptr ? ZeroBytes(rows, run) : 0));
      ArriveExpecting(full, bytes);
    }
    __syncwarp();
    if (lane_ < Shape::kBlocks * rows.runs) {
      const int block = lane_ / rows.runs, run = lane_ % rows.runs;
      CopyBoxUnderPolicy(
          stage + Shape::kBlocksAt + block * Shape::kBlockBytes + run * (Shape::kBlockBytes / 2),
          (at.stage * Shape::kBlocks + block) * static_cast<int>(kPackedBlockBytes),
          static_cast<int>(rows.start + run * rows.apart), full);
    }
    const int run = lane_ / Shape::kSlots, slot_of_groups = lane_ % Shape::kSlots;
    if (run >= rows.runs || slot_of_groups >= p_.slots) return;
    const int64_t group = Group(at.stage, slot_of_groups), row = rows.start + run * rows.apart;
    CopyBytes(stage + Shape::kScalesAt + slot_of_groups * Shape::kScaleSlotBytes +
                  run * (Shape::kScaleSlotBytes / 2),
              p_.scales + (group * p_.rows + row) * 2, rows.count * 2, full);
    if (p_.zeros == nullptr) return;
    CopyBytes(stage + Shape::kZerosAt + slot_of_groups * Shape::kZeroSlotBytes +
                  run * Shape::kZeroHalfBytes,
              p_.zeros + group * p_.zero_stride + row * Shape::kBits / 8 - rows.ZerosOff(run),
              ZeroBytes(rows, run), full);
  }

  // Up to whole 16 bytes; rows of zeros are padded to them.
  static __device__ __forceinline__ int ZeroBytes(const PackedRows<Shape>& rows, int run) {
    return (rows.ZerosOff(run) + rows.count * Shape::kBits / 8 + 15) / 16 * 16;
  }

  __device__ __forceinline__ int64_t Group(int stage, int slot) const {
    if (p_.group_of_step != nullptr)
      return p_.group_of_step[min(stage * Shape::kSteps + slot, p_.last_step)];
    const int group = p_.slots > 1 ? stage * p_.slots + slot
                                   : static_cast<int>(__umulhi(2 * stage, p_.group_factor));
    return min(group, p_.last_group);
  }

  __device__ __forceinline__ void CopyBoxUnderPolicy(uint32_t to, int column, int row,
                                                     uint32_t barrier) const {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
        " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(&weights_), "r"(column), "r"(row), "r"(barrier), "l"(policy_)
        : "memory");
  }
  static __device__ __forceinline__ void CopyBytes(uint32_t to, const void* from, int bytes,
                                                   uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
        "[%3];" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
  }

  const PackedGemmParams& p_;
  const CUtensorMap& x_;
  const CUtensorMap& weights_;
  const PackedShared<Shape>& shared_;
  const uint64_t policy_;
  const int lane_;
};

}  // namespace tessera
