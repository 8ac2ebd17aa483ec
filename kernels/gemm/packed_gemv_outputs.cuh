// How the warps' sums of the packed few-row kernel (packed_gemv.h) become outputs.
#pragma once

#include <cstdint>

#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"
#include "kernels/gemm/packed_gemv_sums.cuh"

namespace tessera {
namespace packed_gemv {

// What is added to outputs and where they go: what LinearArgs say.
template <typename T>
struct OutputPlace {
  using Loading = float;  // what is added, maybe still under way
  __device__ __forceinline__ Loading LoadAddend(int row, int64_t n) const {
    return Addend<T>(args, row, n);
  }
  __device__ __forceinline__ float Loaded(Loading addend, int64_t) const { return addend; }
  __device__ __forceinline__ void Store(int row, int64_t n, float sum) const {
    StoreOutput<T>(args, row, n, sum);
  }
  const LinearArgs& args;
};

// What the writing warp does: adds the warps' sums of each strip in the order of the warps and
// writes the outputs. A lane has one of a strip's rows of w.
template <PackedGemvForm kForm, typename Place>
class OutputWriter {
  static constexpr int kWarps = kPackedGemvWarps;
  static constexpr int kRows = PackedGemvWide(kForm) ? 4 : 1;  // of x at once

 public:
  __device__ __forceinline__ OutputWriter(const Params& p, const BlockWork& block,
                                          const Place& place)
      : place_(place), a_(p.args), plan_(p.plan), block_(block), t_(RowsOf<kForm>(p)) {}

  __device__ __forceinline__ void WriteAll(SumRing& ring) const {
    static_assert(kPackedStripRows == kWarp);
    float norm = 1;  // of row LaneIndex() of x
    for (int strip = 0; strip < plan_.strips; ++strip) {
      const int first = (block_.first + strip * plan_.strip_tiles) * kTileRows;
      const int end = min(first + plan_.strip_tiles * kTileRows, block_.last * kTileRows);
      const int64_t n = first + LaneIndex();
      const bool mine = n < end;
      typename Place::Loading addend = {};
      if (mine) addend = place_.LoadAddend(0, n);
      const float* const sums = ring.WaitForFull();
      if (strip == 0) norm = NormOf(sums + t_ * SumRing::kRowFloats);
      for (int first_row = 0; first_row < t_; first_row += kRows) {
        float of_row[kRows];
        Collect(sums + first_row * SumRing::kRowFloats + LaneIndex(), of_row);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const int row = first_row + i;
          const float sum = of_row[i] * __shfl_sync(~0u, norm, row);
          if (a_.gated) {
            const float up = __shfl_down_sync(~0u, sum, kPackedStripRows / 2);
            if (mine && row < t_) place_.Store(row, n, Silu(sum) * up);
          } else if (mine && row < t_) {
            if (row > 0) addend = place_.LoadAddend(row, n);
            place_.Store(row, n, sum + place_.Loaded(addend, n));
          }
        }
      }
      ring.GiveBack();
    }
  }

 private:
  // What normalises the lane's row of x, of which its digits know nothing.
  __device__ __forceinline__ float NormOf(const float* squares) const {
    if (a_.norm_weight == nullptr || LaneIndex() >= t_) return 1.f;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += squares[LaneIndex() * kWarps + w];
    return rsqrtf(sum / static_cast<float>(a_.k) + a_.norm_eps);
  }
  // Of kRows rows of x; what stands in for rows past t is not used.
  __device__ __forceinline__ static void Collect(const float* at, float (&sums)[kRows]) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) sums[i] = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
#pragma unroll
      for (int i = 0; i < kRows; ++i) sums[i] += at[i * SumRing::kRowFloats + w * kPackedStripRows];
  }

  const Place place_;
  const LinearArgs& a_;
  const PackedGemvPlan& plan_;
  const BlockWork& block_;
  const int t_;
};

}  // namespace packed_gemv
}  // namespace tessera
