// The warps of the packed batch kernel (packed_batch.h) that multiply.
#pragma once

#include <cstdint>

#include "kernels/device/mma.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/packed_batch_finish.cuh"
#include "kernels/gemm/packed_batch_work.cuh"
#include "kernels/gemm/packed_batch_x.cuh"
#include "kernels/gemm/packed_gemm_unpack.cuh"

namespace tessera {
namespace packed_batch {

// A warp has a strip and a chunk of each stage.
//
// kFromSums (4 bits in bf16): zeros are not taken from every q; products are of 128 + q and start
// from what is too much, the sum of a token's x over a chunk times -(128 + zero).
template <typename T, int kBits, int kEights, bool kZeros, bool kFromSums>
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
    token_sums_ = p.plan.sum_offset + depth_ * kEights * 32 + lane % 4 * 8;
  }

  __device__ __forceinline__ void MultiplyAll() {
    const PackedBatchPlan& plan = p_.plan;
    for (int unit = run_.start; unit < run_.end;) {
      const int tile = unit / plan.rounds, first = unit - tile * plan.rounds;
      const int last = min(plan.rounds, first + run_.end - unit);
      sums_.Clear();
      int chunks_left = plan.chunks - first * plan.depth - depth_;
      for (int round = first; round < last; ++round, chunks_left -= plan.depth) {
        if constexpr (kFromSums)
          ring_.WaitSummed();
        else
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
    uint32_t words[kTilesOfStrip][4], zero[kTilesOfStrip];
    float scale[kTilesOfStrip];
    RowUnpacker<T, kBits> unpack[2][2];
#pragma unroll
    for (int i = 0; i < kTilesOfStrip; ++i) {
      const int on = (i < 2 ? 0 : to_third_) + i % 2 * depth;
      const uint4 v = LoadShared16(stage + values_ + on * kTileBytes);
      words[i][0] = v.x, words[i][1] = v.y, words[i][2] = v.z, words[i][3] = v.w;
      scale[i] = __half2float(__ushort_as_half(LoadShared2(stage + scales_ + on * 16)));
      zero[i] = 1u << (kBits - 1);
      if (kZeros) {
        zero[i] = LoadShared1(stage + zeros_ + on * 8);
        if (kBits == 4) zero[i] = zero[i] >> (LaneIndex() / 4 % 2 * 4) & 0xf;
      }
      unpack[i % 2][i / 2].Set(0, zero[i]);
    }
    float d[2][kEights][4];
    Start(stage, zero, d);
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

  // What products of a chunk are added to.
  __device__ __forceinline__ void Start(uint32_t stage, const uint32_t (&zero)[kTilesOfStrip],
                                        float (&d)[2][kEights][4]) const {
#pragma unroll
    for (int eight = 0; eight < kEights; ++eight) {
      float2 sums = {};
      if (kFromSums) sums = LoadShared8(stage + token_sums_ + eight * 32);
#pragma unroll
      for (int i = 0; i < kTilesOfStrip; ++i) {
        float* const of = d[i % 2][eight] + i / 2 * 2;
        // 128 + zero, as a bf16, is the upper half of a float.
        const float times =
            kFromSums && kZeros ? __uint_as_float(zero[i] << 16 | 0x43000000u) : 1.f;
        of[0] = sums.x * times;
        of[1] = sums.y * times;
      }
    }
  }
  static __device__ __forceinline__ void Unpack(int step, const RowUnpacker<T, kBits> (&rows)[2],
                                                uint32_t low, uint32_t high, uint32_t (&a)[4]) {
    constexpr Unpacked kWhat = kFromSums ? Unpacked::kRaised
                               : kZeros  ? Unpacked::kIntegers
                                         : Unpacked::kMiddleIntegers;
    if (kBits == 4 && step % 2 == 1)
      UnpackStep<1, kWhat>(rows, low, high, a);
    else
      UnpackStep<0, kWhat>(rows, low, high, a);
  }

  const Params& p_;
  const Run& run_;
  Ring ring_;
  StripFinish<T, kEights> finish_;
  const int depth_;
  const X x_;
  // From where a stage begins to what the lane reads: of the strip's first tile, and sums of x.
  uint32_t values_, scales_, zeros_, token_sums_;
  int to_third_;  // slots from the strip's first tile to its third
  StripSums<kEights> sums_;
};

}  // namespace packed_batch
}  // namespace tessera
