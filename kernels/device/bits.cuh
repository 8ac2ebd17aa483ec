// Logic on 32 bits that takes one instruction, which the compiler does not find where two of the
// operands are constants.
#pragma once

#include <cstdint>

namespace tessera {

// (a & b) | c.
__device__ __forceinline__ uint32_t AndOr(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
// (a & b) ^ c.
__device__ __forceinline__ uint32_t AndXor(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

}  // namespace tessera
