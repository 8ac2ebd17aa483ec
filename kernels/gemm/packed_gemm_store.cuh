// What becomes of a warpgroup's sums: outputs, or partial sums for another block (sm_90).
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/device/barrier.cuh"
#include "kernels/device/flag.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/packed_gemm_load.cuh"
#include "kernels/gemm/packed_gemm_walk.cuh"

namespace tessera {

// Depth group 1 hands its sums to the owners of the same rows, in shared memory. `thread` counts
// within the depth group.
template <typename Shape>
class DepthSums {
 public:
  __device__ __forceinline__ DepthSums(uint32_t handed, int thread)
      : at_(handed + thread * 16), barrier_(1 + kMaxGroups + thread / kWarpgroup) {}

  __device__ __forceinline__ void Give(const float (&d)[Shape::kSums]) const {
#pragma unroll
    for (int i = 0; i < Shape::kSums; ++i) {
      if (i % 4 == 0)
        asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(At(i)), "f"(d[i]),
                     "f"(d[i + 1]), "f"(d[i + 2]), "f"(d[i + 3])
                     : "memory");
      if (i % Shape::kHandedSums == Shape::kHandedSums - 1) {
        Meet();
        Meet();
      }
    }
  }
  __device__ __forceinline__ void Add(float (&d)[Shape::kSums]) const {
#pragma unroll
    for (int i = 0; i < Shape::kSums; ++i) {
      if (i % Shape::kHandedSums == 0) Meet();
      if (i % 4 == 0) {
        float4 v;
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                     : "r"(At(i))
                     : "memory");
        d[i] += v.x;
        d[i + 1] += v.y;
        d[i + 2] += v.z;
        d[i + 3] += v.w;
      }
      if (i % Shape::kHandedSums == Shape::kHandedSums - 1) Meet();
    }
  }

 private:
  __device__ __forceinline__ void Meet() const { NamedWait<2 * kWarpgroup>(barrier_); }
  __device__ __forceinline__ uint32_t At(int i) const {
    return at_ + i % Shape::kHandedSums / 4 * (Shape::kOwnerThreads * 16);
  }

  const uint32_t at_;
  const int barrier_;
};

// Partial sums of sharing blocks, as they lie in registers, and the flags that announce them: 0
// between launches. `thread` counts the owners of outputs.
template <typename Shape>
class PartialSums {
 public:
  __device__ __forceinline__ PartialSums(float* sums, uint32_t* flags, int thread)
      : sums_(sums), flags_(flags), thread_(thread) {}

  __device__ __forceinline__ void Give(int block, const float (&d)[Shape::kSums]) const {
#pragma unroll
    for (int i = 0; i < Shape::kSums / 4; ++i)
      __stcg(At(block, i), make_float4(d[i * 4], d[i * 4 + 1], d[i * 4 + 2], d[i * 4 + 3]));
    GroupWait();
    if (thread_ % kWarpgroup == 0) StoreRelease(Flag(block), 1);
  }

  // Adds those of blocks [first, end) in their order, once all are there.
  __device__ __forceinline__ void Add(int first, int end, float (&d)[Shape::kSums]) const {
    if (thread_ % kWarpgroup < kWarp) {
      for (int block = first + thread_ % kWarp; block < end; block += kWarp) {
        while (LoadAcquire(Flag(block)) == 0) {
        }
        *Flag(block) = 0;
      }
    }
    GroupWait();
    for (int block = first; block < end; ++block) AddOne(block, d);
  }

 private:
  __device__ __forceinline__ void AddOne(int block, float (&d)[Shape::kSums]) const {
#pragma unroll
    for (int i = 0; i < Shape::kSums / 4; ++i) {
      const float4 v = __ldcg(At(block, i));
      d[i * 4] += v.x;
      d[i * 4 + 1] += v.y;
      d[i * 4 + 2] += v.z;
      d[i * 4 + 3] += v.w;
    }
  }

  __device__ __forceinline__ void GroupWait() const {
    NamedWait<kWarpgroup>(1 + thread_ / kWarpgroup);
  }
  __device__ __forceinline__ float4* At(int block, int i) const {
    constexpr int64_t kTile = int64_t{Shape::kRows} * Shape::kTokens / 4;
    return reinterpret_cast<float4*>(sums_) + block * kTile + i * Shape::kOwnerThreads + thread_;
  }
  __device__ __forceinline__ uint32_t* Flag(int block) const {
    return flags_ + block * kMaxGroups + thread_ / kWarpgroup;
  }

  float* const sums_;
  uint32_t* const flags_;
  const int thread_;
};

// Stores a warp's 16 rows of W by kTokens tokens. In a lane, sums come as rows (its two) by pairs
// of tokens; transposing 8x8 matrices gives it pairs of outputs of one token, two neighbouring ones
// when not gated, so that four lanes write a sector of 32 bytes.
template <typename T, typename Shape>
class OutputTile {
 public:
  __device__ __forceinline__ OutputTile(const PackedGemmParams& p, const PackedItem& item,
                                        int thread)
      : p_(p),
        lane_(thread % kWarp),
        first_((int64_t{item.row_tile} * Shape::kOwnerWarps + thread / kWarp) * (p.gated ? 8 : 16)),
        token_(int64_t{item.token_tile} * Shape::kTokens) {}

  __device__ __forceinline__ void Store(float (&d)[Shape::kSums]) const {
    if (p_.gated)
      StoreGated(d);
    else
      StorePlain(d);
  }

 private:
  __device__ __forceinline__ void StoreGated(const float (&d)[Shape::kSums]) const {
    const int64_t wide_row = first_ + lane_ / 4, row = first_ + lane_ % 4 * 2;
#pragma unroll
    for (int j = 0; j < Shape::kSums / 4; ++j) {
      const float v0 = Silu(d[j * 4]) * d[j * 4 + 2], v1 = Silu(d[j * 4 + 1]) * d[j * 4 + 3];
      if (p_.f32) {
        StoreWide(wide_row, token_ + j * 8 + lane_ % 4 * 2, v0);
        StoreWide(wide_row, token_ + j * 8 + lane_ % 4 * 2 + 1, v1);
        continue;
      }
      const uint32_t pair = TransposeMatrix(PackHalves<T>(v0, v1));
      const int64_t token = token_ + j * 8 + lane_ / 4;
      if (token < p_.t && row < p_.n)
        *reinterpret_cast<uint32_t*>(static_cast<T*>(p_.y) + token * p_.n + row) = pair;
    }
  }

  // Residuals are read ahead of stores, as many as registers allow: the compiler does not move them
  // there, since y may be the residual. A lane reads what it stores, in that order.
  __device__ __forceinline__ void StorePlain(float (&d)[Shape::kSums]) const {
    constexpr int kEights = Shape::kSums / 4, kAhead = std::min(kEights, 8);
    const int i = lane_ / 4;
    const int64_t wide_row = first_ + i / 2 * 4 + i % 2, row = first_ + lane_ % 4 * 4;
    const float bias0 = Bias(wide_row), bias1 = Bias(wide_row + 2);
#pragma unroll
    for (int first = 0; first < kEights; first += kAhead) {
      uint2 residual[kAhead] = {};
      if (p_.residual != nullptr) {
#pragma unroll
        for (int j = 0; j < kAhead; ++j) residual[j] = Residual(token_ + (first + j) * 8 + i, row);
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const float* const sums = d + (first + j) * 4;
        StoreEight(token_ + (first + j) * 8, row, wide_row,
                   {sums[0] + bias0, sums[1] + bias0, sums[2] + bias1, sums[3] + bias1},
                   residual[j]);
      }
    }
  }

  // The lane's sums of eight tokens: of output wide_row and the second one on, tokens lane % 4 * 2
  // and the next.
  __device__ __forceinline__ void StoreEight(int64_t tokens, int64_t row, int64_t wide_row,
                                             float4 v, const uint2& residual) const {
    if (p_.residual != nullptr) {
      const float2 low = UnpackHalves<T>(TransposeMatrix(residual.x));
      const float2 high = UnpackHalves<T>(TransposeMatrix(residual.y));
      v.x += low.x;
      v.y += low.y;
      v.z += high.x;
      v.w += high.y;
    }
    if (p_.f32) {
      const int64_t pair = tokens + lane_ % 4 * 2;
      StoreWide(wide_row, pair, v.x);
      StoreWide(wide_row, pair + 1, v.y);
      StoreWide(wide_row + 2, pair, v.z);
      StoreWide(wide_row + 2, pair + 1, v.w);
      return;
    }
    uint2 four;
    four.x = TransposeMatrix(PackHalves<T>(v.x, v.y));
    four.y = TransposeMatrix(PackHalves<T>(v.z, v.w));
    const int64_t token = tokens + lane_ / 4;
    if (token < p_.t && row < p_.n)
      *reinterpret_cast<uint2*>(static_cast<T*>(p_.y) + token * p_.n + row) = four;
  }

  // Of four outputs of a token.
  __device__ __forceinline__ uint2 Residual(int64_t token, int64_t row) const {
    if (token >= p_.t || row >= p_.n) return {};
    return *reinterpret_cast<const uint2*>(static_cast<const T*>(p_.residual) + token * p_.n + row);
  }

  __device__ __forceinline__ float Bias(int64_t row) const {
    if (p_.bias == nullptr || row >= p_.n) return 0.f;
    return static_cast<float>(static_cast<const T*>(p_.bias)[row]);
  }
  __device__ __forceinline__ void StoreWide(int64_t row, int64_t token, float v) const {
    if (token < p_.t && row < p_.n) static_cast<float*>(p_.y)[token * p_.n + row] = v;
  }

  const PackedGemmParams& p_;
  const int lane_;
  const int64_t first_, token_;
};

}  // namespace tessera
