// Host conversions between fp32 and the two 16-bit float types, rounding to nearest even.
#pragma once

#include <bit>
#include <cstdint>

namespace tessera {

inline float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

inline uint16_t FloatToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    return static_cast<uint16_t>((bits >> 16) | 0x40u);  // NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float F16ToFloat(uint16_t bits);
uint16_t FloatToF16(float value);

}  // namespace tessera
