// How the warps' sums of the packed few-row kernel (packed_gemv.h) become outputs.
#pragma once

#include <cstdint>

#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/packed_gemv_product.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"

namespace tessera {
namespace packed_gemv {

// What is added to outputs and where they go: what LinearArgs say.
template <typename T>
struct OutputPlace {
  using Loading = float;  // what is added, maybe still under way
  __device__ __forceinline__ Loading LoadAddend(int row, int64_t n) const {
    return Addend<T>(args, row, n);
  }
  __device__ __forceinline__ float Loaded(Loading addend, int, int64_t) const { return addend; }
  __device__ __forceinline__ void Store(int row, int64_t n, float sum) const {
    StoreOutput<T>(args, row, n, sum);
  }
  const LinearArgs& args;
};

// Writes the outputs of batches of strips. A warp takes a strip's outputs of one row of x at a
// time.
template <PackedGemvForm kForm, typename Place>
class OutputWriter {
  static constexpr int kWarps = kPackedGemvWarps;
  static constexpr int kFloats = kPackedStripRows;

 public:
  // `squares` has room for a sum of squares of x for each row and warp.
  __device__ __forceinline__ OutputWriter(const Params& p, const BlockWork& block, float* squares,
                                          const Place& place)
      : place_(place),
        a_(p.args),
        plan_(p.plan),
        block_(block),
        squares_(squares),
        t_(RowsOf<kForm>(p)),
        warp_(WarpIndex()) {}

  // Where strip `index` of a batch has this warp's sums of the first row; the next row's lie
  // kWarps * kFloats behind.
  __device__ __forceinline__ float* SumsOf(float* buffer, int index) const {
    return buffer + (index * t_ * kWarps + warp_) * kFloats;
  }

  // What is added to this thread's first output; after the wait for the previous kernel.
  __device__ __forceinline__ typename Place::Loading FirstAddend() const {
    const int strip = t_ == 1 ? warp_ : warp_ / t_;
    if (strip >= min(plan_.batch, plan_.strips) || LaneIndex() >= Width(strip)) return {};
    return place_.LoadAddend(warp_ - strip * t_, Output(strip, LaneIndex()));
  }

  // Keeps the sum over the warp's lanes of what they have of the squares of a row of x.
  __device__ __forceinline__ void KeepSquares(int row, float squares) const {
    if (a_.norm_weight == nullptr) return;
    squares = WarpReduce<SumOp>(squares);
    if (LaneIndex() == 0) squares_[row * kWarps + warp_] = squares;
  }

  // Adds the warps' sums of strips [strip, end) in the order of the warps. After a barrier behind
  // the sums.
  __device__ __forceinline__ void Write(int strip, int end, const float* partials,
                                        typename Place::Loading first_addend) const {
    ForOutputs(
        strip, end,
        [&](int row, int of_strip, int output, const float* at, float norm) {
          const float sum = Collect(at) * norm;
          const int64_t n = Output(of_strip, output);
          const bool is_first = of_strip * t_ + row == warp_ && output < kWarp;
          const auto addend = is_first ? first_addend : place_.LoadAddend(row, n);
          place_.Store(row, n, sum + place_.Loaded(addend, row, n));
        },
        partials);
  }
  __device__ __forceinline__ void WriteGated(int strip, int end, const float* partials) const {
    ForOutputs(
        strip, end,
        [&](int row, int of_strip, int output, const float* at, float norm) {
          const float gate = Collect(at) * norm;
          const float up = Collect(at + kFloats / 2) * norm;
          place_.Store(row, Output(of_strip, output), Silu(gate) * up);
        },
        partials);
  }

 private:
  // Visits this thread's outputs of strips [first, end): a warp has every kWarps-th row of x of the
  // strips, a lane every 32nd output. `at` is where one's first partial sum lies.
  template <typename Visit>
  __device__ __forceinline__ void ForOutputs(int first, int end, const Visit& visit,
                                             const float* partials) const {
    for (int i = warp_; i < (end - first) * t_; i += kWarps) {
      const int strip = first + i / t_, row = i % t_;
      const float norm = NormFactor(row);
      const float* const at = partials + i * (kWarps * kFloats);
      for (int output = LaneIndex(); output < Width(strip); output += kWarp)
        visit(row, strip, output, at + output, norm);
    }
  }

  // What normalises a row of x, of which its digits know nothing.
  __device__ __forceinline__ float NormFactor(int row) const {
    if (a_.norm_weight == nullptr) return 1.f;
    const float part = LaneIndex() < kWarps ? squares_[row * kWarps + LaneIndex()] : 0.f;
    return rsqrtf(WarpReduce<SumOp>(part) / static_cast<float>(a_.k) + a_.norm_eps);
  }
  // Outputs of a strip.
  __device__ __forceinline__ int Width(int strip) const {
    return min(plan_.strip_tiles, block_.last - block_.first - strip * plan_.strip_tiles) *
           kTileRows;
  }
  __device__ __forceinline__ int64_t Output(int strip, int output) const {
    return (block_.first + strip * plan_.strip_tiles) * kTileRows + output;
  }
  __device__ __forceinline__ static float Collect(const float* at) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += at[w * kFloats];
    return sum;
  }

  const Place place_;
  const LinearArgs& a_;
  const PackedGemvPlan& plan_;
  const BlockWork& block_;
  float* const squares_;
  const int t_, warp_;
};

}  // namespace packed_gemv
}  // namespace tessera
