// The stages of the packed few-row kernel (packed_gemv.h) before sm_90: each warp loads its own
// part.
#pragma once

#include <cstdint>

#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/packed_gemv_scales.cuh"

namespace tessera {
namespace packed_gemv {

// A ring of stages in which each multiplying warp fills its own part by asynchronous copies.
template <int kBits, PackedSegment kSegment, PackedGemvForm kForm>
class StageRing {
  static constexpr int kWarps = kPackedGemvWarps;

 public:
  __device__ StageRing(const Params& p, const BlockWork& block, uint32_t ring, uint32_t,
                       const uint16_t* steps)
      : p_(p), block_(block), ring_(ring), steps_(steps) {}

  __device__ __forceinline__ void Init() const {}
  __device__ __forceinline__ void LoadAll() const {}
  __device__ __forceinline__ void AllowAll() const {}

  __device__ __forceinline__ uint32_t Wait() {
    if (next_ == 0)
      for (int i = 0; i < p_.plan.stages; ++i) Load(i);
    if (p_.plan.stages >= 3) {
      WaitForCopies<2>();
    } else {
      WaitForCopies<0>();
    }
    __syncwarp();
    return Stage(next_);
  }
  __device__ __forceinline__ void Release() {
    __syncwarp();  // all lanes have read it
    Load(next_ + p_.plan.stages);
    ++next_;
  }

 private:
  __device__ __forceinline__ uint32_t Stage(int i) const {
    return ring_ + i % p_.plan.stages * p_.plan.stage_bytes;
  }
  __device__ __forceinline__ void Load(int i) const {
    if (i < p_.plan.strips * p_.plan.rounds) Copy(i);
    CommitCopies();
  }
  __device__ __forceinline__ void Copy(int i) const {
    const PackedGemvPlan& plan = p_.plan;
    const int strip = i / plan.rounds, round = i - strip * plan.rounds;
    const int first = block_.first + strip * plan.strip_tiles;
    const int tiles = min(plan.strip_tiles, block_.last - first);
    const int warp = WarpIndex(), chunk = round * kWarps + warp;
    if (chunk >= plan.chunks) return;
    const int64_t tile_bytes = int64_t{plan.chunks} * kTileBytes;
    const uint32_t to = Stage(i);
    for (int part = 0; part < 2; ++part) {
      const PartTiles of(p_.args, first, tiles, part);
      const char* from = static_cast<const char*>(p_.args.packed.values) + of.from * tile_bytes +
                         int64_t{chunk} * kTileBytes + LaneIndex() * 16;
      const uint32_t weights = to + (part * kTiles * kWarps + warp) * kTileBytes + LaneIndex() * 16;
      for (int j = 0; j < of.count; ++j)
        CopyAsync16(weights + j * kWarps * kTileBytes, from + j * tile_bytes, EvictFirstPolicy());
    }
    ScaleCopier<kBits, kSegment> scales(p_, steps_);
    scales.StartStrip(first, tiles);
    scales.template Copy<1>(to, chunk, warp, 1);
  }

  const Params& p_;
  const BlockWork& block_;
  const uint32_t ring_;
  const uint16_t* const steps_;
  int next_ = 0;
};

}  // namespace packed_gemv
}  // namespace tessera
