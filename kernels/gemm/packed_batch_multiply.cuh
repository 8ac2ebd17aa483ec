// The warps of the packed batch kernel (packed_batch.h) that multiply.
#pragma once

#include <cstdint>

#include "kernels/device/mma.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/packed_batch_finish.cuh"
#include "kernels/gemm/packed_batch_work.cuh"
#include "kernels/gemm/packed_gemm_unpack.cuh"

namespace tessera {
namespace packed_batch {

// How a warp reads a chunk of x in a stage, by 8x8 matrices: lane l gives row l % 8 of matrix l
// / 8. Matrices are rows of x in eights by k in eights: of a step of 16 k with 16 rows, of two
// with 8.
template <int kBits, int kEights>
class XChunk {
 public:
  static constexpr int kSteps = static_cast<int>(PackedBlock(kBits) / kPackedStep);
  static constexpr int kStepsALoad = 2 / kEights;

  __device__ __forceinline__ XChunk(const PackedBatchPlan& plan, int depth) {
    const int lane = LaneIndex();
    const int token = kEights == 2 ? lane % 8 + lane / 16 * 8 : lane % 8;
    const int piece = kEights == 2 ? lane / 8 % 2 : lane / 8;
    at_ = plan.x_offset + depth * kBytes + PieceBytes(token, piece);
  }
  // From step `step` on, which is a constant and a multiple of kStepsALoad.
  __device__ __forceinline__ void Load(uint32_t stage, int step, uint32_t (&b)[4]) const {
    LoadMatrices(stage + (at_ ^ (step % kPanelSteps << 5)) + step / kPanelSteps * kPanelBytes, b);
  }
  // Where eight i of a step's operand begins in what Load() gave.
  static __device__ __forceinline__ int At(int step, int i) {
    return kEights == 2 ? i * 2 : step % 2 * 2;
  }

 private:
  static constexpr int kPanelSteps = kPanel / static_cast<int>(kPackedStep);
  static constexpr int kPanelBytes = kEights * 8 * kPanelRowBytes;
  static constexpr int kBytes = kSteps / kPanelSteps * kPanelBytes;

  uint32_t at_;
};

// A warp has a strip and a chunk of each stage.
template <typename T, int kBits, int kEights, bool kZeros>
class Multiplier {
  using X = XChunk<kBits, kEights>;
  static constexpr int kSteps = X::kSteps;

 public:
  __device__ __forceinline__ Multiplier(const Params& p, const Run& run, const Ring& ring,
                                        const StripFinish<T, kEights>& finish)
      : p_(p),
        run_(run),
        ring_(ring),
        finish_(finish),
        depth_(WarpIndex() / p.plan.strips),
        x_(p.plan, depth_) {
    const int strips = p.plan.strips, depth = p.plan.depth, lane = LaneIndex(), row = lane / 4;
    const int first = WarpIndex() % strips * (p.args.gated ? 2 : 4);
    const int third = p.args.gated ? 2 * strips + first : first + 2;
    const int slot = first * depth + depth_;
    to_third_ = (third - first) * depth;
    values_ = slot * kTileBytes + lane * 16;
    scales_ = p.plan.scale_offset + slot * 16 + row * 2;
    zeros_ = p.plan.zero_offset + slot * 8 + row * kBits / 8;
  }

  __device__ __forceinline__ void MultiplyAll() {
    const PackedBatchPlan& plan = p_.plan;
    for (int unit = run_.start; unit < run_.end;) {
      const int tile = unit / plan.rounds, first = unit - tile * plan.rounds;
      const int last = min(plan.rounds, first + run_.end - unit);
      sums_.Clear();
      int chunks_left = plan.chunks - first * plan.depth - depth_;
      for (int round = first; round < last; ++round, chunks_left -= plan.depth) {
        ring_.WaitFull();
        if (chunks_left > 0) AddChunk(ring_.Stage());
        __syncwarp();
        if (LaneIndex() == 0) ring_.Free();
        ring_.Next();
      }
      finish_.Finish(tile, first, last, sums_);
      unit += last - first;
    }
  }

 private:
  __device__ __forceinline__ void AddChunk(uint32_t stage) {
    constexpr int kStepsOfWord = kSteps / 4;
    const int depth = p_.plan.depth;  // tiles are that many slots apart
    uint32_t words[kTilesOfStrip][4];
    float scale[kTilesOfStrip];
    RowUnpacker<T, kBits> unpack[2][2];
#pragma unroll
    for (int i = 0; i < kTilesOfStrip; ++i) {
      const int on = (i < 2 ? 0 : to_third_) + i % 2 * depth;
      const uint4 v = LoadShared16(stage + values_ + on * kTileBytes);
      words[i][0] = v.x, words[i][1] = v.y, words[i][2] = v.z, words[i][3] = v.w;
      scale[i] = __half2float(__ushort_as_half(LoadShared2(stage + scales_ + on * 16)));
      uint32_t zero = 1u << (kBits - 1);
      if (kZeros) {
        zero = LoadShared1(stage + zeros_ + on * 8);
        if (kBits == 4) zero = zero >> (LaneIndex() / 4 % 2 * 4) & 0xf;
      }
      unpack[i % 2][i / 2].Set(0, zero);
    }
    float d[2][kEights][4] = {};
    uint32_t b[4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step % X::kStepsALoad == 0) x_.Load(stage, step, b);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t a[4];
        Unpack(step, unpack[pair], words[pair][step / kStepsOfWord],
               words[2 + pair][step / kStepsOfWord], a);
#pragma unroll
        for (int i = 0; i < kEights; ++i)
          MultiplyAdd<T>(d[pair][i], a, b[X::At(step, i)], b[X::At(step, i) + 1]);
      }
    }
#pragma unroll
    for (int pair = 0; pair < 2; ++pair)
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          sums_.at[pair][eight][j] += scale[pair + j / 2 * 2] * d[pair][eight][j];
  }

  static __device__ __forceinline__ void Unpack(int step, const RowUnpacker<T, kBits> (&rows)[2],
                                                uint32_t low, uint32_t high, uint32_t (&a)[4]) {
    if (kBits == 4 && step % 2 == 1)
      UnpackStep<1, Unpacked::kIntegers, !kZeros>(rows, low, high, a);
    else
      UnpackStep<0, Unpacked::kIntegers, !kZeros>(rows, low, high, a);
  }

  const Params& p_;
  const Run& run_;
  Ring ring_;
  StripFinish<T, kEights> finish_;
  const int depth_;
  const X x_;
  // From where a stage begins to what the lane reads of the strip's first tile.
  uint32_t values_, scales_, zeros_;
  int to_third_;  // slots from the strip's first tile to its third
  StripSums<kEights> sums_;
};

}  // namespace packed_batch
}  // namespace tessera
