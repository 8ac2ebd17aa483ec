// How the warps' sums of the packed few-row kernel (packed_gemv.h) become outputs.
#pragma once

#include <cstdint>

#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/packed_gemv_sums.cuh"
#include "kernels/gemm/packed_gemv_work.cuh"

namespace tessera {
namespace packed_gemv {

// What is added to outputs and where they go: what LinearArgs say.
template <typename T>
struct OutputPlace {
  using Pending = float;  // what is added, maybe still under way
  __device__ __forceinline__ Pending LoadAddend(int row, int64_t n) const {
    return Addend<T>(args, row, n);
  }
  __device__ __forceinline__ float Loaded(Pending addend, int64_t) const { return addend; }
  __device__ __forceinline__ void Store(int row, int64_t n, float sum) const {
    StoreOutput<T>(args, row, n, sum);
  }
  const LinearArgs& args;
};

// Adds the warps' sums of each strip in the order of the warps and writes the outputs of row `row`
// of x. A lane has one of a strip's rows of w.
template <PackedGemvForm kForm, typename Place>
class OutputWriter {
  static constexpr int kWarps = kPackedGemvWarps;

 public:
  __device__ __forceinline__ OutputWriter(const Params& p, const BlockWork& block,
                                          const Place& place, int row)
      : place_(place), a_(p.args), plan_(p.plan), block_(block), t_(RowsOf<kForm>(p)), row_(row) {}

  // The next strip of the ring, strip `strip` of the block.
  __device__ __forceinline__ void Write(int strip, SumRing& ring) {
    static_assert(kPackedStripRows == kWarp);
    const int first = (block_.first + strip * plan_.strip_tiles) * kTileRows;
    const int end = min(first + plan_.strip_tiles * kTileRows, block_.last * kTileRows);
    const int64_t n = first + LaneIndex();
    const bool mine = n < end;
    typename Place::Pending addend = {};
    if (mine) addend = place_.LoadAddend(row_, n);
    const float* const sums = ring.WaitForFull();
    if (strip == 0) norm_ = NormFactor(sums + t_ * SumRing::kRowFloats + row_ * kWarps);
    const float sum = Collect(sums + row_ * SumRing::kRowFloats + LaneIndex()) * norm_;
    if (a_.gated) {
      const float up = __shfl_down_sync(~0u, sum, kPackedStripRows / 2);
      if (mine) place_.Store(row_, n, Silu(sum) * up);
    } else if (mine) {
      place_.Store(row_, n, sum + place_.Loaded(addend, n));
    }
    ring.GiveBack();
  }
  __device__ __forceinline__ void WriteAll(SumRing& ring) {
    for (int strip = 0; strip < plan_.strips; ++strip) Write(strip, ring);
  }

 private:
  // What normalises the row of x, of which its digits know nothing.
  __device__ __forceinline__ float NormFactor(const float* squares) const {
    if (a_.norm_weight == nullptr) return 1.f;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += squares[w];
    return rsqrtf(sum / static_cast<float>(a_.k) + a_.norm_eps);
  }
  __device__ __forceinline__ static float Collect(const float* at) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += at[w * kPackedStripRows];
    return sum;
  }

  const Place place_;
  const LinearArgs& a_;
  const PackedGemvPlan& plan_;
  const BlockWork& block_;
  const int t_, row_;
  float norm_ = 1;
};

}  // namespace packed_gemv
}  // namespace tessera
