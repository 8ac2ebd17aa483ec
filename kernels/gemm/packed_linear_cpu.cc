#include "kernels/gemm/packed_linear_cpu.h"

#include <algorithm>
#include <cstring>

#include "common/float16.h"

namespace tessera {
namespace {

constexpr int64_t kLanes = 4;  // of a quad, each with 16 bytes of a block
constexpr int64_t kMaxBlock = PackedBlock(4);

// The integers of a 64-byte block in order of k. One pass over its words, with the places that
// PackedPlaceOf() gives.
template <int kBits>
void UnpackBlock(const uint8_t* block, int16_t* q) {
  constexpr int64_t kStepsAWord = 8 / kBits, kWords = 4;
  constexpr uint32_t kMask = (1u << kBits) - 1;
  for (int64_t lane = 0; lane < kLanes; ++lane)
    for (int64_t i = 0; i < kWords; ++i) {
      uint32_t word;
      std::memcpy(&word, block + lane * 16 + i * 4, sizeof(word));
      for (int64_t s = 0; s < kStepsAWord; ++s) {
        const uint32_t at = word >> (s * 2 * kBits);
        int16_t* const out = q + (i * kStepsAWord + s) * kPackedStep + lane * 2;
        out[0] = static_cast<int16_t>(at & kMask);
        out[1] = static_cast<int16_t>(at >> 16 & kMask);
        out[8] = static_cast<int16_t>(at >> kBits & kMask);
        out[9] = static_cast<int16_t>(at >> (16 + kBits) & kMask);
      }
    }
}

struct ScaleAndZero {
  float scale;
  int16_t zero;
};

ScaleAndZero Of(const PackedWeight& w, int64_t row, int64_t group) {
  uint16_t scale;
  std::memcpy(&scale, static_cast<const uint8_t*>(w.scales) + (group * w.n + row) * 2,
              sizeof(scale));
  int zero = 1 << (w.bits - 1);
  if (w.zeros != nullptr) {
    const uint8_t* zeros =
        static_cast<const uint8_t*>(w.zeros) + group * PackedZeroStride(w.bits, w.n);
    zero = w.bits == 8 ? zeros[row] : zeros[row / 2] >> (row % 2 * 4) & 0xf;
  }
  return {F16ToFloat(scale), static_cast<int16_t>(zero)};
}

}  // namespace

void UnpackRow(const PackedWeight& w, int64_t row, float* out) {
  const uint8_t* from = static_cast<const uint8_t*>(w.values) + PackedRowAt(w.bits, w.k, row);
  const int64_t block = PackedBlock(w.bits);
  int64_t last_group = -1;
  ScaleAndZero of = {};
  for (int64_t j = 0; j < w.k; j += block, from += kPackedTileBytes) {
    int16_t q[kMaxBlock];
    if (w.bits == 4) {
      UnpackBlock<4>(from, q);
    } else {
      UnpackBlock<8>(from, q);
    }
    for (int64_t step = 0; step < std::min(block, w.k - j); step += kPackedStep) {
      const int64_t at = j + step;
      const int64_t group =
          w.group_of_step != nullptr ? w.group_of_step[at / kPackedStep] : at / w.group;
      if (group != last_group) of = Of(w, row, group);
      last_group = group;
      for (int64_t i = 0; i < kPackedStep; ++i)
        out[at + i] = of.scale * static_cast<float>(q[step + i] - of.zero);
    }
  }
}

}  // namespace tessera
