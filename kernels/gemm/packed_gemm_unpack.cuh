// From packed integers to the 16-bit weights of an m64k16 operand in registers (sm_90).
//
// A value q becomes (q - zero) * scale, rounded once: q - zero is exact in either type, and so is
// scale, which bf16 takes as the sum of two numbers.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace tessera {

template <typename T>
struct HalfPair;  // arithmetic on two values of T in a register

template <>
struct HalfPair<__nv_bfloat16> {
  static __device__ __forceinline__ uint32_t Twice(float v) {
    const __nv_bfloat162 both = __float2bfloat162_rn(v);
    return *reinterpret_cast<const uint32_t*>(&both);
  }
  static __device__ __forceinline__ float Rounded(float v) {
    return __bfloat162float(__float2bfloat16_rn(v));
  }
  static __device__ __forceinline__ uint32_t Add(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
  }
  static __device__ __forceinline__ uint32_t Subtract(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
  }
  static __device__ __forceinline__ uint32_t Multiply(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
  }
  static __device__ __forceinline__ uint32_t MultiplyAdd(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
  }
};

template <>
struct HalfPair<__half> {
  static __device__ __forceinline__ uint32_t Twice(float v) {
    const __half2 both = __float2half2_rn(v);
    return *reinterpret_cast<const uint32_t*>(&both);
  }
  static __device__ __forceinline__ uint32_t Subtract(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
  }
  static __device__ __forceinline__ uint32_t Multiply(uint32_t a, uint32_t b) {
    uint32_t d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
  }
};

// Scale and zero of a row, ready for pairs of its values.
template <typename T, int kBits>
class RowUnpacker;

// 4 bits: 128 + q is a bf16 with q as its low bits. 8 bits have no room there: the upper bit adds
// 128 to what the lower seven give, which is q - 128 with 256 taken off.
template <int kBits>
class RowUnpacker<__nv_bfloat16, kBits> {
 public:
  __device__ __forceinline__ void Set(__half scale, int zero) {
    const float s = __half2float(scale), high = P::Rounded(s);
    high_ = P::Twice(high);
    low_ = P::Twice(s - high);
    zero_ = P::Twice(static_cast<float>(kBits == 4 ? 128 + zero : zero - 128));
  }
  // Pair `field` of a word (packed_weight.h): fields field and field + 16 / kBits.
  template <int kField>
  __device__ __forceinline__ uint32_t Pair(uint32_t word) const {
    const uint32_t w = word >> (kField * kBits);
    uint32_t q;
    if constexpr (kBits == 4) {
      q = (w & 0x000f000fu) | 0x43004300u;
    } else {
      q = P::Add((w & 0x007f007fu) | 0x43004300u, (w & 0x00800080u) ^ 0xc380c380u);
    }
    q = P::Subtract(q, zero_);
    return P::MultiplyAdd(q, high_, P::Multiply(q, low_));
  }

 private:
  using P = HalfPair<__nv_bfloat16>;
  uint32_t high_, low_, zero_;
};

// 1024 + q is an f16 with q as its low bits.
template <int kBits>
class RowUnpacker<__half, kBits> {
 public:
  __device__ __forceinline__ void Set(__half scale, int zero) {
    scale_ = P::Twice(__half2float(scale));
    zero_ = P::Twice(static_cast<float>(1024 + zero));
  }
  template <int kField>
  __device__ __forceinline__ uint32_t Pair(uint32_t word) const {
    constexpr uint32_t kMask = kBits == 4 ? 0x000f000fu : 0x00ff00ffu;
    const uint32_t q = ((word >> (kField * kBits)) & kMask) | 0x64006400u;
    return P::Multiply(P::Subtract(q, zero_), scale_);
  }

 private:
  using P = HalfPair<__half>;
  uint32_t scale_, zero_;
};

// The operand of step kStep of a stage, from the lane's words of its two rows.
template <int kStep, typename T, int kBits>
__device__ __forceinline__ void UnpackStep(const RowUnpacker<T, kBits> (&rows)[2], uint32_t word0,
                                           uint32_t word1, uint32_t (&a)[4]) {
  constexpr int kField = kBits == 4 ? kStep % 2 * 2 : 0;
  a[0] = rows[0].template Pair<kField>(word0);
  a[1] = rows[1].template Pair<kField>(word1);
  a[2] = rows[0].template Pair<kField + 1>(word0);
  a[3] = rows[1].template Pair<kField + 1>(word1);
}

}  // namespace tessera
