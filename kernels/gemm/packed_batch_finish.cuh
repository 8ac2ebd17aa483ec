// From sums of the packed batch kernel (packed_batch.h) to outputs.
#pragma once

#include <cstdint>

#include "kernels/device/barrier.cuh"
#include "kernels/device/flag.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/packed_batch_work.cuh"

namespace tessera {
namespace packed_batch {

// A warp's sums of a strip: [pairs][tokens in eights], d of mma m16n8k16 each. Pair i is tiles i
// and 2 + i of the strip.
template <int kEights>
struct StripSums {
  float at[2][kEights][4];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < 2 * kEights; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) at[i / kEights][i % kEights][j] = 0.f;
  }
  // Piece i of 2 * kEights.
  __device__ __forceinline__ float4 Piece(int i) const {
    const float(&v)[4] = at[i / kEights][i % kEights];
    return make_float4(v[0], v[1], v[2], v[3]);
  }
  __device__ __forceinline__ void Add(int i, const float4& v) {
    float(&sum)[4] = at[i / kEights][i % kEights];
    sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
  }
};

// What becomes of a warp's sums of a strip: outputs, or sums for another warp or block. `flags` are
// [blocks][strips]: set when a block's sums are there, and 0 between launches.
template <typename T, int kEights>
class StripFinish {
  static constexpr int kPieces = 2 * kEights;
  using Sums = StripSums<kEights>;

 public:
  __device__ __forceinline__ StripFinish(const Params& p, const Run& run, uint32_t depth_sums,
                                         uint32_t* flags)
      : p_(p),
        run_(run),
        depth_sums_(depth_sums),
        flags_(flags),
        strip_(WarpIndex() % p.plan.strips),
        depth_(WarpIndex() / p.plan.strips) {}

  // From the sums of rounds [first, last) of a tile to outputs, or partial sums.
  __device__ __forceinline__ void Finish(int tile, int first, int last, Sums& sums) {
    const PackedBatchPlan& plan = p_.plan;
    if (plan.depth > 1 && !MeetDepths(sums)) return;
    if (first > 0) {
      Give(sums);
      return;
    }
    if (last < plan.rounds) {
      int end = run_.block + 1;
      while (end < plan.blocks && Run::Start(plan, end) < (tile + 1) * plan.rounds) ++end;
      Take(run_.block + 1, end, sums);
    }
    if (p_.args.gated)
      StoreGated(tile, sums);
    else
      StorePlain(tile, sums);
  }

 private:
  // Adds the sums of a strip's warps in those of its first, in which it returns true.
  __device__ __forceinline__ bool MeetDepths(Sums& sums) {
    constexpr int kThere = 1, kTaken = 2, kPieceBytes = kWarp * 16;
    const int strips = p_.plan.strips;
    if (depth_ > 0) {
      if (gave_) NamedWait<kWarps * kWarp>(kTaken);
      gave_ = true;
      const uint32_t at = depth_sums_ + ((depth_ - 1) * strips + strip_) * (kPieces * kPieceBytes) +
                          LaneIndex() * 16;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const float4 v = sums.Piece(i);
        StoreShared16(at + i * kPieceBytes, make_uint4(__float_as_uint(v.x), __float_as_uint(v.y),
                                                       __float_as_uint(v.z), __float_as_uint(v.w)));
      }
      NamedArrive<kWarps * kWarp>(kThere);
      return false;
    }
    NamedWait<kWarps * kWarp>(kThere);
    for (int depth = 1; depth < p_.plan.depth; ++depth) {
      const uint32_t at = depth_sums_ + ((depth - 1) * strips + strip_) * (kPieces * kPieceBytes) +
                          LaneIndex() * 16;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const uint4 v = LoadShared16(at + i * kPieceBytes);
        sums.Add(i, make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z),
                                __uint_as_float(v.w)));
      }
    }
    __syncwarp();
    NamedArrive<kWarps * kWarp>(kTaken);
    return true;
  }

  __device__ __forceinline__ float4* Partial(int block) const {
    return p_.partial + (int64_t{block} * p_.plan.strips + strip_) * (kPieces * kWarp) +
           LaneIndex();
  }
  __device__ __forceinline__ uint32_t* Flag(int block) const {
    return flags_ + block * kWarps + strip_;
  }
  __device__ __forceinline__ void Give(const Sums& sums) const {
    float4* const to = Partial(run_.block);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) __stcg(to + i * kWarp, sums.Piece(i));
    __syncwarp();
    if (LaneIndex() == 0) StoreRelease(Flag(run_.block), 1);
  }
  __device__ __forceinline__ void Take(int first, int end, Sums& sums) const {
    TakeFlags(first + LaneIndex(), end, [&](int block) { return Flag(block); });
    __syncwarp();
    for (int block = first; block < end; ++block) {
      const float4* const from = Partial(block);
#pragma unroll
      for (int i = 0; i < kPieces; ++i) sums.Add(i, __ldcg(from + i * kWarp));
    }
  }

  // In a lane, sums come as a row of w by pairs of tokens; transposing 8x8 matrices gives it pairs
  // of outputs of one token.
  __device__ __forceinline__ void StoreGated(int tile, const Sums& sums) const {
    const int64_t out = (int64_t{tile} * p_.plan.strips + strip_) * 16;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const float(&v)[4] = sums.at[i / kEights][i % kEights];
      StorePair(out + i / kEights * kTileRows, i % kEights, Silu(v[0]) * v[2], Silu(v[1]) * v[3]);
    }
  }
  __device__ __forceinline__ void StorePlain(int tile, const Sums& sums) const {
    const LinearArgs& a = p_.args;
    const int64_t out = (int64_t{tile} * p_.plan.strips + strip_) * 32;
    float add[kTilesOfStrip][kEights][2] = {};
#pragma unroll
    for (int i = 0; i < kTilesOfStrip; ++i) {
      const int64_t n = out + i * kTileRows;
      if (n >= a.n) continue;
      const int64_t row = n + LaneIndex() / 4, pair = n + LaneIndex() % 4 * 2;
      const float bias =
          a.bias == nullptr ? 0.f : static_cast<float>(static_cast<const T*>(a.bias)[row]);
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight) {
        const int token = eight * 8 + LaneIndex() / 4;
        uint32_t two = 0;
        if (a.residual != nullptr && token < static_cast<int>(a.t))
          two = *reinterpret_cast<const uint32_t*>(static_cast<const T*>(a.residual) + token * a.n +
                                                   pair);
        const float2 residual = UnpackHalves<T>(TransposeMatrix(two));
        add[i][eight][0] = bias + residual.x;
        add[i][eight][1] = bias + residual.y;
      }
    }
#pragma unroll
    for (int i = 0; i < kTilesOfStrip; ++i)
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight) {
        const float* const v = sums.at[i % 2][eight] + i / 2 * 2;
        StorePair(out + i * kTileRows, eight, v[0] + add[i][eight][0], v[1] + add[i][eight][1]);
      }
  }

  // Two sums of a lane, of output n + lane / 4 and tokens 8 * eight + lane % 4 * 2, + 1. Whole
  // warp.
  __device__ __forceinline__ void StorePair(int64_t n, int eight, float v0, float v1) const {
    const LinearArgs& a = p_.args;
    if (n >= a.n) return;
    if (a.y_dtype == DType::kF32) {
      const int token = eight * 8 + LaneIndex() % 4 * 2;
      float* const y = static_cast<float*>(a.y) + token * a.n + n + LaneIndex() / 4;
      if (token < static_cast<int>(a.t)) y[0] = v0;
      if (token + 1 < static_cast<int>(a.t)) y[a.n] = v1;
      return;
    }
    const uint32_t two = TransposeMatrix(PackHalves<T>(v0, v1));
    const int token = eight * 8 + LaneIndex() / 4;
    if (token < static_cast<int>(a.t))
      *reinterpret_cast<uint32_t*>(static_cast<T*>(a.y) + token * a.n + n + LaneIndex() % 4 * 2) =
          two;
  }

  const Params& p_;
  const Run& run_;
  const uint32_t depth_sums_;
  uint32_t* const flags_;
  const int strip_, depth_;
  bool gave_ = false;
};

}  // namespace packed_batch
}  // namespace tessera
