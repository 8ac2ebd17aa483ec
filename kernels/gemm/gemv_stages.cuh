// How the few-row kernel (gemv.cu) brings weights and x to a warp's ring of stages.
#pragma once

#include <cstdint>

#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/gemv_config.h"
#include "kernels/gemm/linear.h"

namespace tessera {

namespace gemv {

constexpr int kThreads = kGemvWarps * kWarp;
constexpr int kTileRows = 8;
constexpr int kPieceK = 32;       // k of one 16-byte load a lane: 4 lanes a row, 8 values each
constexpr int kPieceBytes = 512;  // 16 bytes a lane
constexpr int kXPieceBytes = 64;  // of one row of x
constexpr int kLaneValues = 8;

struct GemvParams {
  LinearArgs args;
  GemvPlan plan;
};

// A range of outputs.
struct Outputs {
  int64_t first, last;
};

__device__ __forceinline__ Outputs BlockOutputs(const GemvPlan& plan) {
  const int64_t b = blockIdx.x, extra = plan.larger_blocks;
  const int64_t first = b * plan.block_outputs + (b < extra ? b : extra);
  return {first, first + plan.block_outputs + (b < extra ? 1 : 0)};
}

__device__ __forceinline__ Outputs PassOutputs(const GemvPlan& plan, Outputs block, int64_t pass) {
  const int64_t first = min(block.first + pass * plan.pass_outputs, block.last);
  return {first, min(first + plan.pass_outputs, block.last)};
}

// A warp's place in the block's chunks of k, dealt to warps round robin through all passes.
struct Cursor {
  int64_t pass = 0, chunk = 0;
};

// Copies a warp's stages: a lane copies the 16-byte pieces that it will itself feed to the tensor
// cores (row lane / 4 of each tile, k from 8 * (lane % 4) of each piece), so that no barrier stands
// between copy and use.
template <typename T, int kTileIndex, bool kResident, bool kWide>
class StageLoader {
  static constexpr GemvTile kTile = kGemvTiles[kTileIndex];

 public:
  __device__ StageLoader(const GemvParams& p, Outputs block, int64_t chunks, uint32_t ring,
                         int64_t stage_bytes)
      : a_(p.args),
        plan_(p.plan),
        block_(block),
        chunks_(chunks),
        ring_(ring),
        stage_bytes_(static_cast<uint32_t>(stage_bytes)),
        policy_(EvictFirstPolicy()) {
    at_.chunk = threadIdx.x / kWarp;
    SkipFinishedPasses();
    SetRows();
  }

  __device__ __forceinline__ bool done() const { return at_.pass >= plan_.passes; }

  // Copies the next stage into `slot`; nothing at the end of the work. Closes one group.
  template <bool kWithX>
  __device__ __forceinline__ void Load(int slot) {
    if (!done()) {
      const uint32_t base = ring_ + slot * stage_bytes_ + lane_ * 16;
      const int64_t k0 = at_.chunk * (kTile.k_pieces * kPieceK) + (lane_ % 4) * kLaneValues;
#pragma unroll
      for (int q = 0; q < kTile.tiles; ++q)
#pragma unroll
        for (int h = 0; h < kTile.k_pieces; ++h) {
          const bool valid = (rows_valid_ >> q & 1) && k0 + h * kPieceK < a_.k;
          CopyAsync16(base + (q * kTile.k_pieces + h) * kPieceBytes,
                      valid ? rows_[q] + k0 + h * kPieceK : rows_[0], valid, policy_);
        }
      if (kWithX && !kResident) LoadX(slot, at_.chunk);
      Advance();
    }
    CommitCopies();
  }

  // The piece of x that belongs to a chunk of k.
  __device__ __forceinline__ void LoadX(int slot, int64_t chunk) const {
    const int g = lane_ / 4;
    const int64_t k0 = chunk * (kTile.k_pieces * kPieceK) + (lane_ % 4) * kLaneValues;
    const uint32_t base =
        ring_ + slot * stage_bytes_ + kTile.tiles * kTile.k_pieces * kPieceBytes + lane_ * 16;
    const int t = static_cast<int>(a_.t);
    const T* x = static_cast<const T*>(a_.x);
#pragma unroll
    for (int h = 0; h < kTile.k_pieces; ++h) {
      const int64_t k = k0 + h * kPieceK;
      const bool valid = k < a_.k;
      if (g < t) CopyAsync16(base + h * t * kXPieceBytes, valid ? x + g * a_.k + k : x, valid);
      if (kWide && g + 8 < t)
        CopyAsync16(base + (h * t + 8) * kXPieceBytes, valid ? x + (g + 8) * a_.k + k : x, valid);
    }
  }

  // Where the warp's first stages lie, for loading x after the weights.
  __device__ __forceinline__ void LoadXOfFirstStages() const {
    Cursor at = {0, threadIdx.x / kWarp};
    for (int slot = 0; slot < kTile.stages; ++slot) {
      while (at.pass < plan_.passes && at.chunk >= chunks_) at.chunk -= chunks_, ++at.pass;
      if (at.pass >= plan_.passes) break;
      LoadX(slot, at.chunk);
      at.chunk += kGemvWarps;
    }
  }

 private:
  __device__ __forceinline__ void SkipFinishedPasses() {
    while (at_.pass < plan_.passes && at_.chunk >= chunks_) at_.chunk -= chunks_, ++at_.pass;
  }
  __device__ __forceinline__ void Advance() {
    const int64_t pass = at_.pass;
    at_.chunk += kGemvWarps;
    SkipFinishedPasses();
    if (at_.pass != pass) SetRows();
  }
  __device__ __forceinline__ void SetRows() {
    if (at_.pass >= plan_.passes) return;
    constexpr int kHalf = kTile.tiles / 2;  // tiles of gate rows, then as many of up rows
    const Outputs out = PassOutputs(plan_, block_, at_.pass);
    const T* w = static_cast<const T*>(a_.w);
    rows_valid_ = 0;
#pragma unroll
    for (int q = 0; q < kTile.tiles; ++q) {
      const bool up = a_.gated && q >= kHalf;
      const int64_t n = out.first + (up ? q - kHalf : q) * kTileRows + lane_ / 4;
      const bool valid = n < out.last;
      rows_valid_ |= valid << q;
      rows_[q] = w + (valid ? n + (up ? a_.n : 0) : 0) * a_.k;
    }
  }

  const LinearArgs& a_;
  const GemvPlan& plan_;
  const Outputs block_;
  const int64_t chunks_;
  const uint32_t ring_, stage_bytes_;
  const uint64_t policy_;
  const int lane_ = threadIdx.x % kWarp;
  Cursor at_;
  const T* rows_[kTile.tiles];
  unsigned rows_valid_ = 0;
};

}  // namespace gemv
}  // namespace tessera
