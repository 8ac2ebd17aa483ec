// Philox4x32-10, a counter-based random generator: the same bits on every device.
// constexpr: nvcc compiles such functions for the device too (--expt-relaxed-constexpr).
#pragma once

#include <cstdint>

namespace tessera {

struct Philox4x32 {
  uint32_t word[4];
};

// The four words of (counter, key). Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
// as 1, 2, 3" (SC11), section 4; the constants and their test vectors are those of Random123.
constexpr Philox4x32 Philox(Philox4x32 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xd2511f53u} * counter.word[0];
    const uint64_t b = uint64_t{0xcd9e8d57u} * counter.word[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
  return counter;
}

}  // namespace tessera
