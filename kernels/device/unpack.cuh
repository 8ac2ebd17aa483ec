// From packed 4- and 8-bit weights (gemm/packed_weight.h) to pairs of 16-bit floats, exactly.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace tessera {

// a * b + c of two 16-bit floats each. With integers as here no rounding takes place.
template <typename T>
__device__ __forceinline__ uint32_t FmaHalves(uint32_t a, uint32_t b, uint32_t c);
template <>
__device__ __forceinline__ uint32_t FmaHalves<__nv_bfloat16>(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
template <>
__device__ __forceinline__ uint32_t FmaHalves<__half>(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// (a & b) | c and (a & b) ^ c as one instruction.
__device__ __forceinline__ uint32_t AndOr(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ __forceinline__ uint32_t AndXor(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// Turns a word of packed weights of one row into q - zero, as T = __nv_bfloat16 or __half. A word
// is what lane l of a quad holds of 8 / kBits steps of 16 k (packed_weight.h); of its step s
//   pairs[s][0] = k 2l, 2l + 1        b0 of mma m16n8k16, or a0 or a1
//   pairs[s][1] = k 2l + 8, 2l + 9    b1, or a2 or a3
// with the first of a pair in the low half. Every value is exact: |q - zero| <= 255.
//
// How: bits OR-ed into the mantissa of a power of two whose unit in the last place is 1 make that
// power plus q; an fma takes the power and the zero point off. Instructions a word, logic (half
// rate) and fma: bf16 4 bits 7 + 4, 8 bits 5 + 4; f16 5 + 4 and 2 + 2.
template <typename T, int kBits>
class Unpacker;

template <>
class Unpacker<__nv_bfloat16, 4> {
 public:
  // zero in [0, 16].
  __device__ __forceinline__ explicit Unpacker(uint32_t zero)
      : minus_(0xc300c300u | zero * 0x00010001u) {}
  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&pairs)[2][2]) const {
    constexpr uint32_t kOne = 0x3f803f80u;
#pragma unroll
    for (int f = 0; f < 4; ++f)
      pairs[f / 2][f % 2] = FmaHalves<__nv_bfloat16>(
          AndOr(word >> (4 * f), 0x000f000fu, 0x43004300u), kOne, minus_);  // 128 + q
  }

 private:
  uint32_t minus_;  // -(128 + zero)
};

template <>
class Unpacker<__half, 4> {
 public:
  // zero in [0, 16].
  __device__ __forceinline__ explicit Unpacker(uint32_t zero)
      : minus_(0xe400e400u | zero * 0x00010001u), minus_high_(0xd400d400u | zero * 0x00100010u) {}
  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&pairs)[2][2]) const {
    constexpr uint32_t kOne = 0x3c003c00u, kSixteenth = 0x2c002c00u, kMagic = 0x64006400u;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const uint32_t w = word >> (8 * s);
      pairs[s][0] = FmaHalves<__half>(AndOr(w, 0x000f000fu, kMagic), kOne, minus_);  // 1024 + q
      pairs[s][1] =
          FmaHalves<__half>(AndOr(w, 0x00f000f0u, kMagic), kSixteenth, minus_high_);  // 1024 + 16 q
    }
  }

 private:
  uint32_t minus_;       // -(1024 + zero)
  uint32_t minus_high_;  // -(64 + zero)
};

template <>
class Unpacker<__nv_bfloat16, 8> {
 public:
  // zero in [0, 256].
  __device__ __forceinline__ explicit Unpacker(uint32_t zero) {
    const __nv_bfloat16 rest = __float2bfloat16_rn(128.f - static_cast<float>(zero));
    rest_ = __bfloat16_as_ushort(rest) * 0x00010001u;
  }
  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&pairs)[1][2]) const {
    constexpr uint32_t kOne = 0x3f803f80u;
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      const uint32_t w = word >> (8 * f);
      const uint32_t low = AndOr(w, 0x007f007fu, 0x43004300u);    // 128 + q % 128
      const uint32_t high = AndXor(w, 0x00800080u, 0xc380c380u);  // q < 128 ? -256 : -128
      pairs[0][f] =
          FmaHalves<__nv_bfloat16>(FmaHalves<__nv_bfloat16>(low, kOne, high), kOne, rest_);
    }
  }

 private:
  uint32_t rest_;  // 128 - zero
};

template <>
class Unpacker<__half, 8> {
 public:
  // zero in [0, 256].
  __device__ __forceinline__ explicit Unpacker(uint32_t zero)
      : minus_((0xe400u + zero) * 0x00010001u) {}
  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&pairs)[1][2]) const {
    constexpr uint32_t kOne = 0x3c003c00u, kMagic = 0x64646464u;
    pairs[0][0] = FmaHalves<__half>(__byte_perm(word, kMagic, 0x4240), kOne, minus_);  // 1024 + q
    pairs[0][1] = FmaHalves<__half>(__byte_perm(word, kMagic, 0x4341), kOne, minus_);
  }

 private:
  uint32_t minus_;  // -(1024 + zero)
};

// The same without a zero point, in fewer instructions: q + kOffset. Where sums of x are at hand,
// the product's zero point and offset come off as (zero + kOffset) times them. kOffset is 128 for
// bf16 and 4 bits, where it saves the fma (7 instructions a word), and else the least there is.
template <typename T, int kBits>
class OffsetUnpacker {
 public:
  static constexpr float kOffset = -(1 << (kBits - 1));
  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&pairs)[8 / kBits][2]) const {
    Unpacker<T, kBits>(1u << (kBits - 1))(word, pairs);
  }
};

template <>
class OffsetUnpacker<__nv_bfloat16, 4> {
 public:
  static constexpr float kOffset = 128;
  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&pairs)[2][2]) const {
#pragma unroll
    for (int f = 0; f < 4; ++f)
      pairs[f / 2][f % 2] = AndOr(word >> (4 * f), 0x000f000fu, 0x43004300u);
  }
};

template <>
class OffsetUnpacker<__nv_bfloat16, 8> {
 public:
  static constexpr float kOffset = -128;
  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&pairs)[1][2]) const {
    constexpr uint32_t kOne = 0x3f803f80u;
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      const uint32_t w = word >> (8 * f);
      pairs[0][f] =
          FmaHalves<__nv_bfloat16>(AndOr(w, 0x007f007fu, 0x43004300u), kOne,  // 128 + q % 128
                                   AndXor(w, 0x00800080u, 0xc380c380u));      // -256 or -128
    }
  }
};

}  // namespace tessera
