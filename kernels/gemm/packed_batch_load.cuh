// The warps of the packed batch kernel (packed_batch.h) that fill its stages.
#pragma once

#include <cstdint>

#include <cuda.h>

#include "kernels/device/barrier.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/packed_batch_work.cuh"

namespace tessera {
namespace packed_batch {

// One thread: values and x by TMA. Values do not depend on earlier kernels.
template <int kBits>
class ValueLoader {
 public:
  __device__ __forceinline__ ValueLoader(const Params& p, const CUtensorMap& weights,
                                         const CUtensorMap& x)
      : p_(p), weights_(weights), x_(x) {}

  __device__ __forceinline__ void LoadAll(const Run& run, Ring ring) const {
    const int early = min(run.end - run.start, p_.plan.stages);
    Ring early_ring = ring;
    Units units(p_.plan, run), early_units = units;
    for (int i = 0; i < early; ++i, units.Next(), ring.Next()) LoadValues(units, ring);
    WaitForPrevious();
    for (int i = 0; i < early; ++i, early_units.Next(), early_ring.Next())
      LoadX(early_units, early_ring);
    for (int i = run.start + early; i < run.end; ++i, units.Next(), ring.Next()) {
      ring.WaitFree();
      LoadValues(units, ring);
      LoadX(units, ring);
    }
  }

 private:
  __device__ __forceinline__ void LoadValues(const Units& units, const Ring& ring) const {
    const Tiles tiles(p_, units.tile);
    const int chunk = units.round * p_.plan.depth;
    ArriveExpecting(ring.Full(), p_.plan.scale_offset);
    CopyBox(ring.Stage(), weights_, 0, chunk, tiles.first, ring.Full(), once_);
    if (p_.args.gated)
      CopyBox(ring.Stage() + p_.plan.x_offset / 2, weights_, 0, chunk, tiles.second, ring.Full(),
              once_);
  }
  __device__ __forceinline__ void LoadX(const Units& units, const Ring& ring) const {
    constexpr int kPanels = static_cast<int>(PackedBlock(kBits)) / kPanel;
    CopyBox(ring.Stage() + p_.plan.x_offset, x_, 0, 0, units.round * p_.plan.depth * kPanels,
            ring.Full(), again_);
  }

  const Params& p_;
  const CUtensorMap &weights_, &x_;
  const uint64_t once_ = EvictFirstPolicy(), again_ = EvictNormalPolicy();
};

// One warp: scales and zeros, which do not depend on earlier kernels.
template <int kBits>
class ScaleLoader {
  static constexpr int kPieces = kWarps * kTilesOfStrip / kWarp;  // of a lane

 public:
  __device__ __forceinline__ ScaleLoader(const Params& p) : p_(p) {}

  __device__ __forceinline__ void LoadAll(const Run& run, Ring ring) {
    Units units(p_.plan, run);
    for (int i = run.start; i < run.end; ++i, units.Next(), ring.Next()) {
      if (i == run.start || units.round == 0) StartTile(units.tile);
      if (i >= run.start + p_.plan.stages) ring.WaitFree();
      Load(units.round * p_.plan.depth, ring);
    }
  }

 private:
  __device__ __forceinline__ void StartTile(int tile) {
    const PackedWeight& w = p_.args.packed;
    const Tiles tiles(p_, tile);
    const int last = static_cast<int>(w.n) / kTileRows - 1;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int slot = (LaneIndex() + i * kWarp) / p_.plan.depth;
      const int64_t row = int64_t{min(tiles.Of(slot), last)} * kTileRows;
      scales_[i] = static_cast<const char*>(w.scales) + row * 2;
      zeros_[i] = static_cast<const char*>(w.zeros) + row * kBits / 8;
    }
  }
  __device__ __forceinline__ void Load(int first_chunk, const Ring& ring) const {
    const PackedBatchPlan& plan = p_.plan;
    const PackedWeight& w = p_.args.packed;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int piece = LaneIndex() + i * kWarp;
      const auto chunk = static_cast<uint32_t>(first_chunk + piece % plan.depth);
      const uint32_t of = GroupOfChunk(plan.groups, chunk);
      const auto group = static_cast<int64_t>(min(of, static_cast<uint32_t>(w.groups) - 1));
      CopyAsync16(ring.Stage() + plan.scale_offset + piece * 16, scales_[i] + group * w.n * 2,
                  true);
      if (w.zeros != nullptr) {
        const char* const from = zeros_[i] + group * PackedZeroStride(kBits, w.n);
        const uint32_t to = ring.Stage() + plan.zero_offset + piece * 8;
        CopyAsync4(to, from);
        if (kBits == 8) CopyAsync4(to + 4, from + 4);
      }
    }
    ArriveAfterCopies(ring.Full());
  }

  const Params& p_;
  const char *scales_[kPieces], *zeros_[kPieces];
};

}  // namespace packed_batch
}  // namespace tessera
