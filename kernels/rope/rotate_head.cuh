// RMS norm and rotary embedding of one head spread over kE / 4 lanes.
#pragma once

#include <cstdint>

#include "kernels/device/mma.cuh"

namespace tessera {

// A head's four elements of one lane: x[2l], x[2l + 1] and their partners half a head further.
struct HeadQuad {
  float2 low, high;
};

// The same as two words of 16-bit floats.
struct HeadWords {
  uint32_t low = 0, high = 0;
};

template <typename T, int kE>
__device__ __forceinline__ HeadWords LoadHead(const T* head, int lane) {
  const auto* words = reinterpret_cast<const uint32_t*>(head);
  return {words[lane], words[lane + kE / 4]};
}

template <typename T>
__device__ __forceinline__ HeadQuad Unpack(const HeadWords& x) {
  return {UnpackHalves<T>(x.low), UnpackHalves<T>(x.high)};
}

template <typename T>
__device__ __forceinline__ HeadWords Pack(const HeadQuad& x) {
  return {PackHalves<T>(x.low.x, x.low.y), PackHalves<T>(x.high.x, x.high.y)};
}

// The kE / 4 lanes of a head take part, in one warp with all its lanes.
template <int kE>
__device__ __forceinline__ HeadQuad Normalised(const HeadQuad& x, const HeadQuad& weight,
                                               float eps) {
  float sum = x.low.x * x.low.x + x.low.y * x.low.y + x.high.x * x.high.x + x.high.y * x.high.y;
  for (int step = kE / 8; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  const float scale = rsqrtf(sum / kE + eps);
  return {{weight.low.x * (x.low.x * scale), weight.low.y * (x.low.y * scale)},
          {weight.high.x * (x.high.x * scale), weight.high.y * (x.high.y * scale)}};
}

// `turn`: cosine and sine of the lane's first angle, then of its second.
__device__ __forceinline__ HeadQuad Rotated(const HeadQuad& x, const float4& turn) {
  return {{x.low.x * turn.x - x.high.x * turn.y, x.low.y * turn.z - x.high.y * turn.w},
          {x.high.x * turn.x + x.low.x * turn.y, x.high.y * turn.z + x.low.y * turn.w}};
}

// Cosine and sine at `position`, times `scale`.
__device__ __forceinline__ float2 TurnAt(int position, float frequency, float scale) {
  float sin, cos;
  sincosf(static_cast<float>(position) * frequency, &sin, &cos);
  return {cos * scale, sin * scale};
}

}  // namespace tessera
