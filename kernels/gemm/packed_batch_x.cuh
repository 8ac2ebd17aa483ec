// x in the stages of the packed batch kernel (packed_batch.h): how products read it, and its sums.
#pragma once

#include <cstdint>

#include "kernels/device/mma.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/packed_batch_work.cuh"

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
    at_ = plan.x_offset + depth * kBytes + token * kPanelRowBytes + ((piece ^ (token & 7)) << 4);
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

// Warp `index` of kSumWarps sums x over every kSumWarps-th chunk of a stage: [chunks][tokens].
template <typename T, int kBits, int kEights, bool kZeros>
class TokenSums {
  using X = XChunk<kBits, kEights>;

 public:
  __device__ __forceinline__ TokenSums(const Params& p) : p_(p) {}

  __device__ __forceinline__ void SumAll(const Run& run, Ring ring, int index) const {
    for (int i = run.start; i < run.end; ++i, ring.Next()) {
      ring.WaitFull();
      for (int depth = index; depth < p_.plan.depth; depth += kSumWarps) Sum(ring.Stage(), depth);
      __syncwarp();
      if (LaneIndex() == 0) ring.Summed();
    }
  }

 private:
  __device__ __forceinline__ void Sum(uint32_t stage, int depth) const {
    // With one zero for all, times what it takes from a product of 128 + q.
    constexpr float kTimes = kZeros ? -1.f : -(128.f + (1 << (kBits - 1)));
    constexpr uint32_t kOnes = 0x3f803f80u;
    const uint32_t ones[4] = {kOnes, kOnes, kOnes, kOnes};
    const X x(p_.plan, depth);
    float d[kEights][4] = {};
    uint32_t b[4];
#pragma unroll
    for (int step = 0; step < X::kSteps; ++step) {
      if (step % X::kStepsALoad == 0) x.Load(stage, step, b);
#pragma unroll
      for (int i = 0; i < kEights; ++i)
        MultiplyAdd<T>(d[i], ones, b[X::At(step, i)], b[X::At(step, i) + 1]);
    }
    if (LaneIndex() >= 4) return;
#pragma unroll
    for (int i = 0; i < kEights; ++i)
      StoreShared8(stage + p_.plan.sum_offset + (depth * kEights + i) * 32 + LaneIndex() * 8,
                   d[i][0] * kTimes, d[i][1] * kTimes);
  }

  const Params& p_;
};

}  // namespace packed_batch
}  // namespace tessera
