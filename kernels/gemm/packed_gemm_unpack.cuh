// From packed integers to 16-bit weights.
//
// A value q becomes (q - zero) * scale, rounded once: q - zero is exact in either type, and so is
// scale, which bf16 takes as the sum of two numbers. Or it becomes q - zero, for sums to be scaled.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/device/bits.cuh"
#include "kernels/device/mma.cuh"

namespace tessera {

template <typename T>
struct HalfPair;  // arithmetic on two values of T in a register, each operation rounded

template <>
struct HalfPair<__nv_bfloat16> {
  using Pair = __nv_bfloat162;
};
template <>
struct HalfPair<__half> {
  using Pair = __half2;
};

template <typename T>
__device__ __forceinline__ uint32_t SubtractHalves(uint32_t a, uint32_t b) {
  using Pair = typename HalfPair<T>::Pair;
  const Pair d = __hsub2_rn(*reinterpret_cast<const Pair*>(&a), *reinterpret_cast<const Pair*>(&b));
  return *reinterpret_cast<const uint32_t*>(&d);
}
template <typename T>
__device__ __forceinline__ uint32_t MultiplyHalves(uint32_t a, uint32_t b) {
  using Pair = typename HalfPair<T>::Pair;
  const Pair d = __hmul2_rn(*reinterpret_cast<const Pair*>(&a), *reinterpret_cast<const Pair*>(&b));
  return *reinterpret_cast<const uint32_t*>(&d);
}

// a * b + c, rounded once.
template <typename T>
__device__ __forceinline__ uint32_t MultiplyAddHalves(uint32_t a, uint32_t b, uint32_t c) {
  using Pair = typename HalfPair<T>::Pair;
  const Pair d = __hfma2(*reinterpret_cast<const Pair*>(&a), *reinterpret_cast<const Pair*>(&b),
                         *reinterpret_cast<const Pair*>(&c));
  return *reinterpret_cast<const uint32_t*>(&d);
}

// Either half of a register in both; products read it so at no cost.
__device__ __forceinline__ uint32_t LowerTwice(uint32_t v) {
  uint32_t d;
  asm("{\n\t.reg .b16 low, high;\n\tmov.b32 {low, high}, %1;\n\tmov.b32 %0, {low, low};\n\t}"
      : "=r"(d)
      : "r"(v));
  return d;
}
__device__ __forceinline__ uint32_t UpperTwice(uint32_t v) {
  uint32_t d;
  asm("{\n\t.reg .b16 low, high;\n\tmov.b32 {low, high}, %1;\n\tmov.b32 %0, {high, high};\n\t}"
      : "=r"(d)
      : "r"(v));
  return d;
}

// Scale and zero of a row, ready for pairs of its values.
template <typename T, int kBits>
class RowUnpacker;

// 4 bits: 128 + q is a bf16 with q as its low bits. 8 bits have no room there: the upper bit adds
// 128 to what the lower seven give, which is q - 128 with 256 taken off.
template <int kBits>
class RowUnpacker<__nv_bfloat16, kBits> {
 public:
  // scale: bits of an f16. zero: below 2^kBits.
  __device__ __forceinline__ void Set(uint16_t scale, uint32_t zero) {
    const float s = __half2float(__ushort_as_half(scale));
    const float high = __uint_as_float(PackHalves<__nv_bfloat16>(0.f, s));
    scale_ = PackHalves<__nv_bfloat16>(s - high, s);
    if constexpr (kBits == 4) {
      zero_ = zero * 0x00010001u + 0x43004300u;
    } else {
      const float z = static_cast<float>(static_cast<int>(zero) - 128);
      zero_ = PackHalves<__nv_bfloat16>(z, z);
    }
  }
  // Of the pair at kField of a word: the weights.
  template <int kField, bool kMiddle = false>
  __device__ __forceinline__ uint32_t Weights(uint32_t word) const {
    const uint32_t q = Integers<kField, kMiddle>(word);
    return MultiplyAddHalves<__nv_bfloat16>(q, UpperTwice(scale_),
                                            MultiplyHalves<__nv_bfloat16>(q, LowerTwice(scale_)));
  }
  // q - zero. kMiddle: zero is known to be 2^(kBits - 1).
  template <int kField, bool kMiddle = false>
  __device__ __forceinline__ uint32_t Integers(uint32_t word) const {
    constexpr uint32_t kOne = 0x3f803f80u;
    const uint32_t w = word >> (kField * kBits);
    uint32_t q;
    if constexpr (kBits == 4) {
      q = AndOr(w, 0x000f000fu, 0x43004300u);
    } else {
      q = MultiplyAddHalves<__nv_bfloat16>(AndOr(w, 0x007f007fu, 0x43004300u), kOne,
                                           AndXor(w, 0x00800080u, 0xc380c380u));
      if constexpr (kMiddle) return q;
    }
    return SubtractHalves<__nv_bfloat16>(q, zero_);
  }

 private:
  uint32_t scale_, zero_;  // scale_: what bf16 leaves of the scale below, bf16's above
};

// 1024 + q is an f16 with q as its low bits, 1024 + 16 q one with q above four others.
template <int kBits>
class RowUnpacker<__half, kBits> {
 public:
  __device__ __forceinline__ void Set(uint16_t scale, uint32_t zero) {
    scale_ = scale * 0x00010001u;
    zero_ = zero * 0x00010001u + 0x64006400u;        // 1024 + zero
    minus_high_ = zero * 0x00100010u + 0xd400d400u;  // -(64 + zero)
  }
  template <int kField, bool kMiddle = false>
  __device__ __forceinline__ uint32_t Weights(uint32_t word) const {
    return MultiplyHalves<__half>(Integers<kField, kMiddle>(word), scale_);
  }
  template <int kField, bool kMiddle = false>
  __device__ __forceinline__ uint32_t Integers(uint32_t word) const {
    uint32_t q;
    if constexpr (kBits == 8) {
      q = SubtractHalves<__half>(__byte_perm(word, 0x64646464u, kField == 0 ? 0x4240 : 0x4341),
                                 zero_);
    } else if constexpr (kField % 2 == 0) {
      q = SubtractHalves<__half>(AndOr(word >> (kField * 4), 0x000f000fu, 0x64006400u), zero_);
    } else {
      constexpr uint32_t kSixteenth = 0x2c002c00u;
      q = MultiplyAddHalves<__half>(AndOr(word >> ((kField - 1) * 4), 0x00f000f0u, 0x64006400u),
                                    kSixteenth, minus_high_);
    }
    return q;
  }

 private:
  uint32_t scale_, zero_, minus_high_;
};

// What a step's operand holds.
enum class Unpacked {
  kWeights,
  kIntegers,  // q - zero
};

// The operand of step kStep of a stage, from the lane's words of its two rows. kMiddle: every zero
// is known to be 2^(kBits - 1).
template <int kStep, Unpacked kWhat, bool kMiddle, typename T, int kBits>
__device__ __forceinline__ void UnpackStep(const RowUnpacker<T, kBits> (&rows)[2], uint32_t word0,
                                           uint32_t word1, uint32_t (&a)[4]) {
  constexpr int kField = kBits == 4 ? kStep % 2 * 2 : 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t word = half == 0 ? word0 : word1;
    if constexpr (kWhat == Unpacked::kWeights) {
      a[half] = rows[half].template Weights<kField, kMiddle>(word);
      a[2 + half] = rows[half].template Weights<kField + 1, kMiddle>(word);
    } else {
      a[half] = rows[half].template Integers<kField, kMiddle>(word);
      a[2 + half] = rows[half].template Integers<kField + 1, kMiddle>(word);
    }
  }
}

}  // namespace tessera
