// How prefill_attention_sm90.cu lays out a block: its threads, its shared memory, and the tiles
// that it takes.
#pragma once

#include <cstdint>

#include <cuda.h>

#include "kernels/attention/prefill_tile.cuh"
#include "kernels/device/barrier.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/wgmma.cuh"

namespace tessera {

constexpr int kTokens = 128;    // of context at a time
constexpr int kGroupRows = 64;  // of a warpgroup: wgmma's M
constexpr int kGroupThreads = 128;
// Warps of the loader warpgroup: one for keys, one for values, the others for queries.
constexpr int kKeyLoaderWarp = 0, kFirstQueryLoaderWarp = 2;
constexpr int kQueryLoaderThreads = kGroupThreads - kFirstQueryLoaderWarp * kWarp;
constexpr int kBarrierStride = 16;  // bytes, between those of a ring's neighbours

// What a kernel for heads of kE elements keeps in shared memory, and who its threads are: a loader
// warpgroup, then the consumer warpgroups.
template <int kE>
struct PrefillPlan {
  static constexpr int kConsumers = kE == 64 ? 3 : 2;
  static constexpr int kStages = kE == 64 ? 4 : 2;  // of keys, and of values
  static constexpr int kQueryStages = 2;
  static constexpr int kRows = kConsumers * kGroupRows;
  static constexpr int kThreads = (1 + kConsumers) * kGroupThreads;
  static constexpr int kPanels = kE / kPanelElements;
  static constexpr int kQueryBytes = kRows * kE * 2;
  static constexpr int kTileBytes = kTokens * kE * 2;  // of keys, or of values
  static constexpr int kKeysAt = kQueryStages * kQueryBytes;
  static constexpr int kValuesAt = kKeysAt + kStages * kTileBytes;
  static constexpr int kBarriersAt = kValuesAt + kStages * kTileBytes;
  static constexpr int kBarriers = 2 * (kQueryStages + 2 * kStages);
  static constexpr int kTilesAt = kBarriersAt + (kBarriers * 8 + 15) / 16 * 16;
  static constexpr int kBytes = kTilesAt + kQueryStages * static_cast<int>(sizeof(PrefillTile));
  // A multiprocessor has 65,536: every thread starts with its share, and loaders give some away.
  static constexpr int kLoaderRegisters = kConsumers == 2 ? 40 : 32;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
};

// Addresses of a block's shared memory.
template <int kE>
struct PrefillShared {
  using P = PrefillPlan<kE>;
  char* start;
  uint32_t base;

  __device__ __forceinline__ explicit PrefillShared(char* shared)
      : start(shared), base(SharedAddress(shared)) {}

  __device__ __forceinline__ uint32_t Query(int i) const { return base + i * P::kQueryBytes; }
  __device__ __forceinline__ uint32_t Keys(int i) const {
    return base + P::kKeysAt + i * P::kTileBytes;
  }
  __device__ __forceinline__ uint32_t Values(int i) const {
    return base + P::kValuesAt + i * P::kTileBytes;
  }
  // A ring's barriers alternate: buffer full, buffer free.
  __device__ __forceinline__ uint32_t QueryFull(int i) const { return Barrier(0, i); }
  __device__ __forceinline__ uint32_t QueryFree(int i) const { return Barrier(1, i); }
  __device__ __forceinline__ uint32_t KeysFull(int i) const { return Barrier(kKeyBarriers, i); }
  __device__ __forceinline__ uint32_t KeysFree(int i) const { return Barrier(kKeyBarriers + 1, i); }
  __device__ __forceinline__ uint32_t ValuesFull(int i) const { return Barrier(kValueBarriers, i); }
  __device__ __forceinline__ uint32_t ValuesFree(int i) const {
    return Barrier(kValueBarriers + 1, i);
  }
  __device__ __forceinline__ PrefillTile& Tile(int i) const {
    return reinterpret_cast<PrefillTile*>(start + P::kTilesAt)[i];
  }

  __device__ __forceinline__ void InitBarriers() const {
    constexpr int kConsumerWarps = P::kConsumers * kGroupThreads / kWarp;
    for (int i = 0; i < P::kQueryStages; ++i) {
      InitBarrier(QueryFull(i), kQueryLoaderThreads + 1);
      InitBarrier(QueryFree(i), kConsumerWarps);
    }
    for (int i = 0; i < P::kStages; ++i) {
      InitBarrier(KeysFull(i), 1);
      InitBarrier(KeysFree(i), kConsumerWarps);
      InitBarrier(ValuesFull(i), 1);
      InitBarrier(ValuesFree(i), kConsumerWarps);
    }
    FenceBarrierInit();
  }

 private:
  static constexpr int kKeyBarriers = 2 * P::kQueryStages;
  static constexpr int kValueBarriers = kKeyBarriers + 2 * P::kStages;

  __device__ __forceinline__ uint32_t Barrier(int first, int i) const {
    return base + P::kBarriersAt + first * 8 + i * kBarrierStride;
  }
};

// The tiles of this block, in turn: section after section of kv heads, and in a section to and fro,
// so that blocks get equal work when tiles are in order of work.
template <int kRows>
class TileWalk {
 public:
  __device__ __forceinline__ PrefillTile Next(const PrefillParams& p, int section_heads) {
    const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    for (; first_head_ < p.kv.kv_heads; first_head_ += section_heads, round_ = 0, ++turns_) {
      const int heads = min(section_heads, p.kv.kv_heads - first_head_);
      const int place = turns_ % 2 == 0 ? block : blocks - 1 - block;
      const PrefillTile tile =
          FindPrefillTile<kRows>(p, first_head_, heads, round_ * blocks + place);
      if (tile.sequence < 0) continue;
      ++round_;
      ++turns_;
      return tile;
    }
    return {};
  }

 private:
  int first_head_ = 0, round_ = 0, turns_ = 0;
};

// Tokens that some row of the tile sees.
template <int kE>
__device__ __forceinline__ int TokensOf(const PrefillTile& tile, const Divisor& group) {
  return tile.Visible(min(tile.first_row + PrefillPlan<kE>::kRows, tile.rows) - 1, group);
}

// What the sm_90 kernel is given beside PrefillParams.
struct Sm90Params {
  CUtensorMap k, v;   // [rows, e], a row being a token's head; boxes of one panel of box_rows rows
  int box_rows;       // divides the block size and kTokens, at least kKvRunTokens
  int section_heads;  // kv heads that blocks work on at a time
};

// Walks down packed rows kStep apart without dividing at each: which head of which row of q they
// are.
template <int kE, int kStep>
class RowWalk {
 public:
  __device__ __forceinline__ RowWalk(const PrefillParams& p, const PrefillTile& tile, int row)
      : h_(p.h),
        group_(p.group.value),
        first_head_(tile.kv_head * p.group.value),
        step_(p.group.Quotient(kStep)) {
    const int token = p.group.Quotient(row);
    in_group_ = row - token * group_;
    row_ = tile.q_row + token;
  }
  __device__ __forceinline__ int Row() const { return row_; }
  __device__ __forceinline__ int Head() const { return first_head_ + in_group_; }
  // From the start of q.
  __device__ __forceinline__ int64_t Bytes() const {
    return (int64_t{row_} * h_ + Head()) * (kE * 2);
  }
  __device__ __forceinline__ void Next() {
    in_group_ += kStep - step_ * group_;
    const bool wraps = in_group_ >= group_;
    if (wraps) in_group_ -= group_;
    row_ += step_ + (wraps ? 1 : 0);
  }

 private:
  const int h_, group_, first_head_;
  const int step_;  // tokens that kStep rows are, rounded down
  int row_, in_group_;
};

}  // namespace tessera
