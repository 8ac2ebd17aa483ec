// How blocks of the packed batch kernel (packed_batch.h) share its work, and the ring of stages in
// which theirs passes through shared memory.
#pragma once

#include <cstdint>

#include "kernels/device/barrier.cuh"
#include "kernels/device/wgmma.cuh"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_batch.h"
#include "kernels/gemm/packed_gemv_work.cuh"

namespace tessera {
namespace packed_batch {

using packed_gemv::GroupOfChunk;
using packed_gemv::kTileBytes;
using packed_gemv::kTileRows;
using packed_gemv::LaneIndex;
using packed_gemv::WarpIndex;

constexpr int kWarps = kPackedBatchWarps;
constexpr int kTilesOfStrip = 4;
constexpr int kPanel = kPackedBatchPanel;
static_assert(kPanel == kPanelElements);

struct Params {
  LinearArgs args;
  PackedBatchPlan plan;
  float4* partial;  // [blocks][strips][2 pairs][eights of tokens][lanes]
  int flag_slot;
};

// What a block does: units [start, end), of which each is a stage of a tile. Blocks count down from
// the grid's last: sums wait for blocks of a lower blockIdx only, which start no later.
struct Run {
  __device__ __forceinline__ explicit Run(const PackedBatchPlan& plan)
      : block(static_cast<int>(gridDim.x - 1 - blockIdx.x)),
        start(Start(plan, block)),
        end(Start(plan, block + 1)) {}
  static __device__ __forceinline__ int Start(const PackedBatchPlan& plan, int block) {
    return static_cast<int>(static_cast<uint32_t>(plan.tiles * plan.rounds) *
                            static_cast<uint32_t>(block) / static_cast<uint32_t>(plan.blocks));
  }
  int block, start, end;
};

// Walks a run: of which tile and round the next unit is.
struct Units {
  __device__ __forceinline__ Units(const PackedBatchPlan& plan, const Run& run)
      : rounds(plan.rounds), tile(run.start / rounds), round(run.start - tile * rounds) {}
  __device__ __forceinline__ void Next() {
    if (++round == rounds) {
      round = 0;
      ++tile;
    }
  }
  int rounds, tile, round;
};

// The tiles of w of a tile of strips, in the order in which they lie in a stage: gated, those of
// gate and then those of up.
struct Tiles {
  __device__ __forceinline__ Tiles(const Params& p, int tile)
      : half(p.plan.strips * 2),
        first(tile * (p.args.gated ? half : 2 * half)),
        second(p.args.gated ? static_cast<int>(p.args.n) / kTileRows + first : first + half) {}
  __device__ __forceinline__ int Of(int i) const {
    return i < half ? first + i : second + i - half;
  }
  int half, first, second;
};

// Stages, and their barriers: full, then free for the warps that have used it.
class Ring {
 public:
  __device__ __forceinline__ Ring(const PackedBatchPlan& plan, uint32_t memory, uint32_t barriers)
      : first_(memory),
        first_full_(barriers),
        last_full_(barriers + (plan.stages - 1) * kBarriers),
        bytes_(plan.stage_bytes),
        stage_(memory),
        full_(barriers) {}
  __device__ __forceinline__ void Init() const {
    for (uint32_t full = first_full_; full <= last_full_; full += kBarriers) {
      InitBarrier(full, 1 + kWarp);  // of who loads values and x, and who loads scales
      InitBarrier(full + kToFree, kWarps);
    }
    FenceBarrierInit();
  }
  __device__ __forceinline__ uint32_t Stage() const { return stage_; }
  __device__ __forceinline__ uint32_t Full() const { return full_; }
  __device__ __forceinline__ void WaitFull() const { WaitAt(full_, parity_); }
  __device__ __forceinline__ void WaitFree() const { WaitAt(full_ + kToFree, parity_ ^ 1); }
  __device__ __forceinline__ void Free() const { ArriveAt(full_ + kToFree); }
  __device__ __forceinline__ void Next() {
    stage_ += bytes_;
    full_ += kBarriers;
    if (full_ > last_full_) {
      stage_ = first_;
      full_ = first_full_;
      parity_ ^= 1;
    }
  }

 private:
  static constexpr uint32_t kBarriers = kPackedBatchBarrierBytes, kToFree = 8;

  const uint32_t first_, first_full_, last_full_, bytes_;
  uint32_t stage_, full_, parity_ = 0;
};

}  // namespace packed_batch
}  // namespace tessera
