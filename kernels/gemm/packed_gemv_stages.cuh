// How the packed few-row kernel (packed_gemv.h) cuts its work, and how stages of it come to
// shared memory.
#pragma once

#include <cstdint>

#include <cuda.h>

#include "kernels/device/barrier.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_gemv_config.h"

namespace tessera {
namespace packed_gemv {

constexpr int kTileRows = static_cast<int>(kPackedTileRows);
constexpr int kTileBytes = static_cast<int>(kPackedTileBytes);
constexpr int kMultiplyBarrier = 1;  // of the warps that multiply

// 1.5 * 2^23 plus an integer below 2^22 is a float whose bits are kMagicBits plus the integer.
constexpr float kMagic = 12582912.f;
constexpr int kMagicBits = 0x4b400000;
constexpr float kDigitBase = 256.f;  // of x (packed_gemv_x.cuh)

struct Params {
  LinearArgs args;
  PackedGemvPlan plan;
  CUtensorMap values, scales, zeros;  // sm_90 and later
};

// What a block computes: tiles of outputs [first, last).
struct BlockWork {
  __device__ explicit BlockWork(const PackedGemvPlan& plan) {
    const int block = static_cast<int>(blockIdx.x);
    first = block * plan.block_tiles + min(block, plan.larger_blocks);
    last = first + plan.block_tiles + (block < plan.larger_blocks ? 1 : 0);
  }
  int first, last;
};

__device__ __forceinline__ int LaneIndex() { return static_cast<int>(threadIdx.x) % kWarp; }

// The row of scales of a chunk's row `row` (PackedGemvPlan::chunk_rows). `steps` is group_of_step.
template <PackedSegment kSegment>
__device__ __forceinline__ int ScaleRow(const Params& p, int chunk, int row,
                                        const uint16_t* steps) {
  if constexpr (kSegment == PackedSegment::kBlock) {
    return static_cast<int>(p.plan.chunks_a_group == 1 ? chunk
                                                       : __umulhi(chunk, p.plan.group_magic));
  } else if constexpr (kSegment == PackedSegment::kTwoSteps) {
    return chunk * p.plan.chunk_rows + row;
  } else {
    const int step = chunk * p.plan.chunk_rows + row;
    return step < static_cast<int>(p.args.k / kPackedStep) ? steps[step] : 0;
  }
}

// The row, of a stage's, with the scales of its chunk `index`, the first being `stage_chunk`: rows
// lie one after the other from the first chunk's first; ragged, all of them, chunk by chunk.
template <PackedSegment kSegment>
__device__ __forceinline__ int PlaceOfScaleRow(const Params& p, int stage_chunk, int index) {
  if (kSegment == PackedSegment::kBlock && p.plan.chunks_a_group > 1)
    return ScaleRow<kSegment>(p, stage_chunk + index, 0, nullptr) -
           ScaleRow<kSegment>(p, stage_chunk, 0, nullptr);
  return index * p.plan.chunk_rows;
}

#if __CUDA_ARCH__ >= 900
// A ring of stages that one warp fills by TMA. A stage's barriers: full, then free for the warps
// that have used it.
template <int kBits, PackedSegment kSegment>
class StageRing {
 public:
  __device__ StageRing(const Params& p, const BlockWork& block, uint32_t ring, uint32_t barriers,
                       const uint16_t* steps)
      : p_(p), block_(block), ring_(ring), barriers_(barriers), steps_(steps) {}

  // By one thread, ahead of the block's first barrier.
  __device__ __forceinline__ void Init() const {
    for (int s = 0; s < p_.plan.stages; ++s) {
      InitBarrier(Full(s), 1);
      InitBarrier(Free(s), p_.plan.warps);
    }
    InitBarrier(Ready(), 1);
    FenceBarrierInit();
  }

  // The loading warp: the strips one after the other, each in its rounds.
  __device__ __forceinline__ void LoadAll() {
    const uint64_t policy = EvictFirstPolicy();
    bool full = false;
    for (int strip = 0; strip < p_.plan.strips; ++strip)
      for (int round = 0; round < p_.plan.rounds; ++round) {
        if (full) WaitAt(Free(slot_), parity_ ^ 1);
        if (!full && slot_ == p_.plan.early_stages) WaitAt(Ready(), 0);
        Load(strip, round, policy);
        Next();
        full = full || slot_ == 0;
      }
  }

  // By one thread, when x is there: lets the loading warp go on past early_stages.
  __device__ __forceinline__ void AllowAll() const { ArriveAt(Ready()); }

  // A multiplying warp: waits for the next stage and names its place; then gives it back.
  __device__ __forceinline__ uint32_t Wait() const {
    WaitAt(Full(slot_), parity_);
    return ring_ + slot_ * p_.plan.stage_bytes;
  }
  __device__ __forceinline__ void Release() {
    __syncwarp();  // all lanes have read it
    if (LaneIndex() == 0) ArriveAt(Free(slot_));
    Next();
  }

 private:
  __device__ __forceinline__ uint32_t Full(int slot) const { return barriers_ + 16 * slot; }
  __device__ __forceinline__ uint32_t Free(int slot) const { return barriers_ + 16 * slot + 8; }
  __device__ __forceinline__ uint32_t Ready() const { return barriers_ + 16 * p_.plan.stages; }
  __device__ __forceinline__ void Next() {
    if (++slot_ == p_.plan.stages) {
      slot_ = 0;
      parity_ ^= 1;
    }
  }

  // One lane copies each tile of w, others rows of scales and zeros.
  __device__ __forceinline__ void Load(int strip, int round, uint64_t policy) const {
    const PackedGemvPlan& plan = p_.plan;
    const int parts = p_.args.gated ? 2 : 1, n_tiles = static_cast<int>(p_.args.n) / kTileRows;
    const int first = block_.first + strip * plan.strip_tiles;
    const int tiles = min(plan.strip_tiles, block_.last - first);
    const int chunk = round * plan.warps;
    constexpr bool kRagged = kSegment == PackedSegment::kStep;
    const int rows = kRagged ? plan.warps * plan.chunk_rows : 1;  // of scales, each a copy
    const uint32_t to = ring_ + slot_ * plan.stage_bytes, full = Full(slot_);
    if (LaneIndex() == 0)
      ArriveExpecting(full, parts * (max(tiles, 0) * plan.warps * kTileBytes +
                                     plan.warps * plan.chunk_rows *
                                         (plan.scale_row_bytes + plan.zero_row_bytes)));
    __syncwarp();
    if (LaneIndex() < parts * tiles) {
      const int part = LaneIndex() / tiles, tile = LaneIndex() - part * tiles;
      CopyBox(to + part * plan.weight_at.odd + tile * plan.warps * kTileBytes, p_.values,
              {0, chunk, first + part * n_tiles + tile}, full, policy);
    }
    for (int i = LaneIndex(); i < parts * rows; i += kWarp) {
      const int part = i / rows, row = i - part * rows;
      const int column = (first + part * n_tiles) * kTileRows;
      const int group =
          ScaleRow<kSegment>(p_, chunk + row / plan.chunk_rows, row % plan.chunk_rows, steps_);
      CopyBox(to + plan.scale_offset + part * plan.scale_at.odd + row * plan.scale_row_bytes,
              p_.scales, column, group, full, policy);
      if (plan.zero_row_bytes > 0)
        CopyBox(to + plan.zero_offset + part * plan.zero_at.odd + row * plan.zero_row_bytes,
                p_.zeros, column * kBits / 8 & ~15, group, full, policy);
    }
  }

  const Params& p_;
  const BlockWork& block_;
  const uint32_t ring_, barriers_;
  const uint16_t* const steps_;
  int slot_ = 0;
  uint32_t parity_ = 0;
};
#else
// A ring of stages that the multiplying warps fill together by asynchronous copies.
template <int kBits, PackedSegment kSegment>
class StageRing {
 public:
  __device__ StageRing(const Params& p, const BlockWork& block, uint32_t ring, uint32_t,
                       const uint16_t* steps)
      : p_(p), block_(block), ring_(ring), steps_(steps) {}

  __device__ __forceinline__ void Init() const {}
  __device__ __forceinline__ void LoadAll() const {}
  __device__ __forceinline__ void AllowAll() const {}

  __device__ __forceinline__ uint32_t Wait() {
    if (stage_ == 0)
      for (int s = 0; s < p_.plan.stages; ++s) Load(s, s);
    if (p_.plan.stages >= 3) {
      WaitForCopies<2>();
    } else {
      WaitForCopies<0>();
    }
    NamedWait(kMultiplyBarrier, p_.plan.warps * kWarp);
    return ring_ + slot_ * p_.plan.stage_bytes;
  }
  __device__ __forceinline__ void Release() {
    NamedWait(kMultiplyBarrier, p_.plan.warps * kWarp);
    Load(stage_ + p_.plan.stages, slot_);
    ++stage_;
    if (++slot_ == p_.plan.stages) slot_ = 0;
  }

 private:
  __device__ __forceinline__ void Load(int stage, int slot) const {
    if (stage < p_.plan.strips * p_.plan.rounds) Copy(stage, slot);
    CommitCopies();
  }
  __device__ __forceinline__ void Copy(int stage, int slot) const {
    const LinearArgs& a = p_.args;
    const PackedGemvPlan& plan = p_.plan;
    const int strip = stage / plan.rounds, round = stage - strip * plan.rounds;
    const int first = block_.first + strip * plan.strip_tiles;
    const int tiles = min(plan.strip_tiles, block_.last - first);
    const int warp = static_cast<int>(threadIdx.x) / kWarp, chunk = round * plan.warps + warp;
    if (chunk >= plan.chunks) return;
    const int64_t tile_bytes = kTileRows * PackedRowBytes(kBits, a.k);
    const uint32_t to = ring_ + slot * plan.stage_bytes;
    const int row_in_stage = PlaceOfScaleRow<kSegment>(p_, chunk - warp, warp);
    for (int part = 0; part < (a.gated ? 2 : 1); ++part) {
      const int tile = first + part * static_cast<int>(a.n) / kTileRows, row = tile * kTileRows;
      const char* from = static_cast<const char*>(a.packed.values) + tile * tile_bytes +
                         int64_t{chunk} * kTileBytes + LaneIndex() * 16;
      const uint32_t weights =
          to + part * plan.weight_at.odd + warp * kTileBytes + LaneIndex() * 16;
      for (int i = 0; i < tiles; ++i)
        CopyAsync16(weights + i * plan.warps * kTileBytes, from + i * tile_bytes,
                    EvictFirstPolicy());
      const int zero = row * kBits / 8;
      for (int r = 0; r < plan.chunk_rows; ++r) {
        const int64_t group =
            min(ScaleRow<kSegment>(p_, chunk, r, steps_), static_cast<int>(a.packed.groups) - 1);
        const char* scales =
            static_cast<const char*>(a.packed.scales) + (group * a.packed.n + row) * 2;
        for (int i = LaneIndex(); i < tiles * kTileRows / 2; i += kWarp)
          CopyAsync4(to + plan.scale_offset + part * plan.scale_at.odd +
                         (row_in_stage + r) * plan.scale_row_bytes + i * 4,
                     scales + i * 4);
        if (plan.zero_row_bytes == 0) continue;
        const char* zeros = static_cast<const char*>(a.packed.zeros) +
                            group * PackedZeroStride(kBits, a.packed.n) + zero;
        for (int i = LaneIndex(); i < tiles * kTileRows * kBits / 32; i += kWarp)
          CopyAsync4(to + plan.zero_offset + part * plan.zero_at.odd +
                         (row_in_stage + r) * plan.zero_row_bytes + zero % 16 + i * 4,
                     zeros + i * 4);
      }
    }
  }

  const Params& p_;
  const BlockWork& block_;
  const uint32_t ring_;
  const uint16_t* const steps_;
  int stage_ = 0, slot_ = 0;
};
#endif

}  // namespace packed_gemv
}  // namespace tessera
