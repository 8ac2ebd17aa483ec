// How the warps' sums of the packed few-row kernel (packed_gemv.cuh) become outputs.
#pragma once

#include <cstdint>

#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"

namespace tessera {
namespace packed_gemv {

// Writes the outputs of groups of strips. A warp takes a strip's outputs of one row of x at a time.
template <typename T, int kMaxWarps>
class OutputWriter {
 public:
  // `unscale` is a factor for each row of x.
  __device__ OutputWriter(const Params& p, const BlockWork& block, const float* unscale)
      : a_(p.args),
        plan_(p.plan),
        block_(block),
        unscale_(unscale),
        t_(static_cast<int>(p.args.t)),
        warp_(static_cast<int>(threadIdx.x) / kWarp) {}

  // What is added to this thread's first output; after the wait for the previous kernel.
  __device__ __forceinline__ float FirstAddend() const {
    const int strip = t_ == 1 ? warp_ : warp_ / t_;
    if (strip >= min(plan_.group, plan_.strips) || LaneIndex() >= Width(strip)) return 0;
    return Addend<T>(a_, warp_ - strip * t_, Output(strip, LaneIndex()));
  }

  // Adds the warps' sums of strips [strip, end), [warps][group][t][row_floats], in the order of the
  // warps. After a barrier behind the sums.
  __device__ __forceinline__ void Write(int strip, int end, const float* partials,
                                        float first_addend) const {
    const int first = strip;
    int row = warp_;
    while (row >= t_) row -= t_, ++strip;
    while (strip < end) {
      const float* const at = partials + ((strip - first) * t_ + row) * plan_.row_floats;
      for (int output = LaneIndex(); output < Width(strip); output += kWarp) {
        const int64_t n = Output(strip, output);
        const bool is_first = first == 0 && output < kWarp && (strip - first) * t_ + row == warp_;
        const float addend = is_first ? first_addend : Addend<T>(a_, row, n);
        StoreOutput<T>(a_, row, n, Collect(at + output) * unscale_[row] + addend);
      }
      row += plan_.warps;
      while (row >= t_) row -= t_, ++strip;
    }
  }
  __device__ __forceinline__ void WriteGated(int strip, int end, const float* partials) const {
    const int first = strip;
    int row = warp_;
    while (row >= t_) row -= t_, ++strip;
    while (strip < end) {
      const float* const at = partials + ((strip - first) * t_ + row) * plan_.row_floats;
      for (int output = LaneIndex(); output < Width(strip); output += kWarp) {
        const float gate = Collect(at + output) * unscale_[row];
        const float up = Collect(at + output + plan_.sum_at.odd) * unscale_[row];
        StoreOutput<T>(a_, row, Output(strip, output), Silu(gate) * up);
      }
      row += plan_.warps;
      while (row >= t_) row -= t_, ++strip;
    }
  }

 private:
  // Outputs of a strip.
  __device__ __forceinline__ int Width(int strip) const {
    return min(plan_.strip_tiles, block_.last - block_.first - strip * plan_.strip_tiles) *
           kTileRows;
  }
  __device__ __forceinline__ int64_t Output(int strip, int output) const {
    return (block_.first + strip * plan_.strip_tiles) * kTileRows + output;
  }
  __device__ __forceinline__ float Collect(const float* at) const {
    const int step = plan_.group * t_ * plan_.row_floats;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kMaxWarps; ++w) {  // loads of all warps at once
      const float one = at[min(w, plan_.warps - 1) * step];
      sum += w < plan_.warps ? one : 0.f;
    }
    return sum;
  }

  const LinearArgs& a_;
  const PackedGemvPlan& plan_;
  const BlockWork& block_;
  const float* const unscale_;
  const int t_, warp_;
};

}  // namespace packed_gemv
}  // namespace tessera
