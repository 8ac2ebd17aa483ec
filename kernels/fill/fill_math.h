// The arithmetic of random fill, shared by the CPU and CUDA so that both give the same bits.
// constexpr: nvcc compiles such functions for the device too (--expt-relaxed-constexpr).
#pragma once

#include <cstdint>

namespace tessera {

// u(key, index) = h / 2^23 - 1 with h the top 24 bits of Mix(key + (index + 1) * golden), Mix and
// golden being splitmix64's (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
// 2014; Stafford's variant 13). Exact in fp32; in [-1, 1).
constexpr float UnitFromCounter(uint64_t key, uint64_t index) {
  uint64_t z = key + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<float>(static_cast<uint32_t>(z >> 40)) * 0x1p-23f - 1.f;
}

// offset + scale * u in fp64, rounded to fp32. The product of two floats is exact in fp64, so the
// result is the same whether or not the compiler fuses the two operations.
constexpr float FillValue(uint64_t key, uint64_t index, float scale, float offset) {
  const double product = static_cast<double>(scale) * UnitFromCounter(key, index);
  return static_cast<float>(static_cast<double>(offset) + product);
}

}  // namespace tessera
