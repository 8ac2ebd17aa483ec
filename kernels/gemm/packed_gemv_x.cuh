// How the packed few-row kernel (packed_gemv.h) keeps x in shared memory: normalised where asked,
// as f16 times a power of two of each row's own.
//
// With the row's largest element between 2^14 and 2^15 every bf16 down to 2^-31 of it is exact, and
// what is smaller is off by less than 2^-39 of it; so is every f16 but for the last bit of what
// lies below 2^-38.
#pragma once

#include <cstdint>

#include "kernels/device/mma.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"

namespace tessera {
namespace packed_gemv {

// The multiplying warps share the rows of x: whole warps a row, as many rows at a time as that
// leaves, in pieces of 16 bytes. `weights` has room for the norm's weight, `parts` for
// kPackedGemvXParts, `unscale` for one a row: what a row's sums are to be multiplied by.
template <typename T>
class XKeeper {
 public:
  __device__ XKeeper(const Params& p, char* xs, char* weights, float2* parts, float* unscale)
      : p_(p),
        xs_(xs),
        weights_(weights),
        parts_(parts),
        unscale_(unscale),
        pieces_(static_cast<int>(p.args.k) / 8),
        padded_((p.plan.x_stride - 16) / 16) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, t = static_cast<int>(p.args.t);
    row_warps_ = t == 1 ? p.plan.warps : max(1, p.plan.warps / t);
    row_ = warp / row_warps_;
    part_ = warp - row_ * row_warps_;
    rows_ = p.plan.warps / row_warps_;
    if (row_ >= rows_) row_ = t;  // no row left
    first_ = part_ * kWarp + LaneIndex();
    step_ = row_warps_ * kWarp;
    if (p.args.norm_weight != nullptr)
      for (int i = static_cast<int>(threadIdx.x); i < pieces_; i += p.plan.warps * kWarp)
        CopyAsync16(SharedAddress(weights) + i * 16,
                    static_cast<const uint4*>(p.args.norm_weight) + i, true);
  }

  // Starts to copy x, zeros past k; after the wait for the previous kernel.
  __device__ __forceinline__ void Start() const {
    for (int row = row_; row < static_cast<int>(p_.args.t); row += rows_) {
      const auto* from =
          reinterpret_cast<const uint4*>(static_cast<const T*>(p_.args.x) + row * p_.args.k);
      const uint32_t to = SharedAddress(Row(row));
#pragma unroll 2
      for (int i = first_; i < padded_; i += step_)
        CopyAsync16(to + i * 16, from + (i < pieces_ ? i : 0), i < pieces_);
    }
    CommitCopies();
  }

  // Ends with a barrier of the multiplying warps.
  __device__ __forceinline__ void Finish() const {
    const bool normed = p_.args.norm_weight != nullptr;
    WaitForCopies<0>();
    if (normed) NamedWait(kMultiplyBarrier, p_.plan.warps * kWarp);  // all have the weight
    for (int row = row_; row < static_cast<int>(p_.args.t); row += rows_) {
      float squares = 0;
      uint32_t top = 0;  // the largest magnitude's bits
#pragma unroll 1
      for (int i = first_; i < pieces_; i += step_) {
        float v[8];
        Load(Row(row)[i], v);
        if (normed) {
#pragma unroll
          for (int j = 0; j < 8; ++j) squares += v[j] * v[j];
          TimesWeight(i, v);
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) top = max(top, __float_as_uint(v[j]) & 0x7fffffffu);
      }
      top = __reduce_max_sync(~0u, top);
      if (normed) squares = WarpReduce<SumOp>(squares);
      if (LaneIndex() == 0)
        parts_[row * row_warps_ + part_] = make_float2(squares, __uint_as_float(top));
    }
    NamedWait(kMultiplyBarrier, p_.plan.warps * kWarp);
    for (int row = row_; row < static_cast<int>(p_.args.t); row += rows_) {
      const float scale = RowScale(row, normed);
#pragma unroll 1
      for (int i = first_; i < pieces_; i += step_) {
        float v[8];
        Load(Row(row)[i], v);
        if (normed) TimesWeight(i, v);
        Row(row)[i] = make_uint4(PackHalves<__half>(v[0] * scale, v[1] * scale),
                                 PackHalves<__half>(v[2] * scale, v[3] * scale),
                                 PackHalves<__half>(v[4] * scale, v[5] * scale),
                                 PackHalves<__half>(v[6] * scale, v[7] * scale));
      }
    }
    NamedWait(kMultiplyBarrier, p_.plan.warps * kWarp);
  }

 private:
  static __device__ __forceinline__ void Load(uint4 from, float (&v)[8]) {
    const uint32_t pairs[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 f = UnpackHalves<T>(pairs[i]);
      v[2 * i] = f.x, v[2 * i + 1] = f.y;
    }
  }
  __device__ __forceinline__ void TimesWeight(int piece, float (&v)[8]) const {
    float by[8];
    Load(reinterpret_cast<const uint4*>(weights_)[piece], by);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] *= by[j];
  }
  __device__ __forceinline__ uint4* Row(int row) const {
    return reinterpret_cast<uint4*>(xs_ + row * p_.plan.x_stride);
  }

  // What makes of a row's x times norm weight its f16; the power of two in it comes off again by
  // `unscale`.
  __device__ __forceinline__ float RowScale(int row, bool normed) const {
    const float2 part =
        LaneIndex() < row_warps_ ? parts_[row * row_warps_ + LaneIndex()] : make_float2(0.f, 0.f);
    const float top = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(part.y)));
    const float squares = normed ? WarpReduce<SumOp>(part.x) : 0.f;
    const float norm =
        normed ? rsqrtf(squares / static_cast<float>(p_.args.k) + p_.args.norm_eps) : 1.f;
    // top * norm is below 2^(exponent + 1). What is no number stays none; rows below 2^-86 are not
    // brought up all the way.
    const int exponent = static_cast<int>(__float_as_uint(top * norm) >> 23) - 127;
    const int shift = exponent > 127 ? 0 : min(14 - exponent, 100);
    if (first_ == 0) unscale_[row] = __uint_as_float(static_cast<uint32_t>(127 - shift) << 23);
    return norm * __uint_as_float(static_cast<uint32_t>(127 + shift) << 23);
  }

  const Params& p_;
  char* const xs_;
  char* const weights_;
  float2* const parts_;
  float* const unscale_;
  const int pieces_, padded_;  // of a row of x: that exist, and with those that are 0
  int rows_, row_;             // rows at a time, and this thread's first
  int row_warps_, part_;       // warps of a row, and this thread's
  int first_, step_;           // a thread's first piece of a row, and the way to its next
};

}  // namespace packed_gemv
}  // namespace tessera
