// The stages of the packed few-row kernel (packed_gemv.h) on sm_90: a warp loads them for the
// others.
#pragma once

#include <cstdint>

#include "kernels/device/barrier.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/packed_gemv_scales.cuh"

namespace tessera {
namespace packed_gemv {

// A ring of stages that one warp fills. A stage's barriers: full, then free for the warps that have
// used it.
template <int kBits, PackedSegment kSegment, PackedGemvForm kForm>
class StageRing {
  static constexpr int kWarps = kPackedGemvWarps;
  static constexpr int kToFree = 8;  // bytes from a stage's full barrier

 public:
  __device__ StageRing(const Params& p, const BlockWork& block, uint32_t ring, uint32_t barriers,
                       const uint16_t* steps)
      : p_(p),
        block_(block),
        ring_(ring),
        barriers_(barriers),
        steps_(steps),
        stage_(ring),
        full_(barriers) {}

  // Goes on where the ring of the product before ended: with the same stages.
  __device__ __forceinline__ void GoOnFrom(const StageRing& before) {
    stage_ = before.stage_;
    full_ = before.full_;
    parity_ = before.parity_;
    loaded_ = before.loaded_;
  }

  // By one thread, ahead of the block's first barrier.
  __device__ __forceinline__ void Init() const {
    for (int s = 0; s < p_.plan.stages; ++s) {
      const uint32_t full = barriers_ + kPackedBarrierBytes * s;
      InitBarrier(full, 1 + kWarp);  // of the loading warp: of values, of scales and zeros
      InitBarrier(full + kToFree, kWarps);
    }
    InitBarrier(Ready(), 1);
    FenceBarrierInit();
  }

  // The loading warp.
  __device__ __forceinline__ void LoadAll() {
    const PackedGemvPlan& plan = p_.plan;
    ScaleCopier<kBits, kSegment> scales(p_, steps_);
    for (int strip = 0; strip < plan.strips; ++strip) {
      const int first = block_.first + strip * plan.strip_tiles;
      const int tiles = min(plan.strip_tiles, block_.last - first);
      scales.StartStrip(first, tiles);
      for (int round = 0; round < plan.rounds; ++round, ++loaded_) {
        if (loaded_ == plan.early_stages) WaitAt(Ready(), 0);
        if (loaded_ >= plan.stages) WaitAt(full_ + kToFree, parity_ ^ 1);
        if (ElectOne()) LoadValues(first, tiles, round * kWarps);
        __syncwarp();
        scales.template Copy<kWarps>(stage_, round * kWarps, 0, kWarps);
        ArriveAfterCopies(full_);
        Next();
      }
    }
  }

  // By one thread, when x is on its way: lets the loading warp go on past early_stages.
  __device__ __forceinline__ void AllowAll() const { ArriveAt(Ready()); }

  // A multiplying warp: waits for the next stage and names its place; then gives it back.
  __device__ __forceinline__ uint32_t Wait() const {
    WaitAt(full_, parity_);
    return stage_;
  }
  __device__ __forceinline__ void Release() {
    __syncwarp();  // all lanes have read it
    if (LaneIndex() == 0) ArriveAt(full_ + kToFree);
    Next();
  }

 private:
  __device__ __forceinline__ uint32_t Ready() const {
    return barriers_ + kPackedBarrierBytes * p_.plan.stages;
  }
  __device__ __forceinline__ void Next() {
    stage_ += p_.plan.stage_bytes;
    full_ += kPackedBarrierBytes;
    if (full_ == Ready()) {
      stage_ = ring_;
      full_ = barriers_;
      parity_ ^= 1;
    }
  }

  // By one lane, all of whose numbers are the same in the others: so a copy needs few instructions.
  __device__ __forceinline__ void LoadValues(int first, int tiles, int chunk) const {
    const uint64_t policy = EvictFirstPolicy();
    const uint32_t to = stage_, full = full_;
    const uint32_t bytes = min(kWarps, p_.plan.chunks - chunk) * kTileBytes;  // of a tile
    ArriveExpecting(full, (p_.args.gated ? 2 : 1) * tiles * bytes);
    const int64_t tile_bytes = int64_t{p_.plan.chunks} * kTileBytes;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const PartTiles of(p_.args, first, tiles, part);
      const char* const from = static_cast<const char*>(p_.args.packed.values) +
                               of.from * tile_bytes + chunk * kTileBytes;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
        if (tile < of.count)
          CopyBulk(to + (part * kTiles + tile) * (kWarps * kTileBytes), from + tile * tile_bytes,
                   bytes, full, policy);
    }
  }

  const Params& p_;
  const BlockWork& block_;
  const uint32_t ring_, barriers_;
  const uint16_t* const steps_;
  uint32_t stage_, full_;  // the next stage and its barrier
  uint32_t parity_ = 0;
  int loaded_ = 0;  // stages, by the loading warp
};

}  // namespace packed_gemv
}  // namespace tessera
