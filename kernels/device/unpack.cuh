// From packed 4- and 8-bit weights (gemm/packed_weight.h) to pairs of f16, exactly.
#pragma once

#include <cstdint>

#include <cuda_fp16.h>

namespace tessera {

// (a & b) | c as one instruction.
__device__ __forceinline__ uint32_t AndOr(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ __forceinline__ uint32_t AddHalves(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

// Turns a word of packed weights of one row into q - zero. A word is what lane l of a quad holds of
// 8 / kBits steps of 16 k (packed_weight.h); of its step s
//   pairs[s][0] = k 2l, 2l + 1        b0 of mma m16n8k16, or a0 or a1
//   pairs[s][1] = k 2l + 8, 2l + 9    b1, or a2 or a3
// with the first of a pair in the low half.
//
// How: bits put into the mantissa of a power of two, where their unit is 1, make that power plus q,
// and an addition takes power and zero point off. Instructions a word, logic (half rate) and
// additions: 5 + 4 with 4 bits, 2 + 2 with 8.
template <int kBits>
class Unpacker;

template <>
class Unpacker<4> {
 public:
  // zero in [0, 16].
  __device__ __forceinline__ explicit Unpacker(uint32_t zero)
      : minus_(0xe400e400u | zero * 0x00010001u), minus_high_(0xd400d400u | zero * 0x00100010u) {}
  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&pairs)[2][2]) const {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const uint32_t w = word >> (8 * s);
      pairs[s][0] = AddHalves(AndOr(w, 0x000f000fu, 0x64006400u), minus_);  // 1024 + q
      // 64 + q: bits 4 to 7 are units there.
      pairs[s][1] = AddHalves(AndOr(w, 0x00f000f0u, 0x54005400u), minus_high_);
    }
  }

 private:
  uint32_t minus_;       // -(1024 + zero)
  uint32_t minus_high_;  // -(64 + zero)
};

template <>
class Unpacker<8> {
 public:
  // zero in [0, 256].
  __device__ __forceinline__ explicit Unpacker(uint32_t zero)
      : minus_((0xe400u + zero) * 0x00010001u) {}
  __device__ __forceinline__ void operator()(uint32_t word, uint32_t (&pairs)[1][2]) const {
    constexpr uint32_t kMagic = 0x64646464u;
    pairs[0][0] = AddHalves(__byte_perm(word, kMagic, 0x4240), minus_);  // 1024 + q
    pairs[0][1] = AddHalves(__byte_perm(word, kMagic, 0x4341), minus_);
  }

 private:
  uint32_t minus_;  // -(1024 + zero)
};

}  // namespace tessera
