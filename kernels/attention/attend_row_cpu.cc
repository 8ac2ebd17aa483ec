#include "kernels/attention/attend_row_cpu.h"

#include <algorithm>
#include <cstring>
#include <limits>

// Vectors are GCC's generic ones, so one body serves every instruction set; passing a 64-byte
// vector between functions would depend on the set, and everything here is inlined instead.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace tessera {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kTile = 16;  // tokens a step; divides every block size
constexpr int64_t kMaxHeadSize = 128;
constexpr int64_t kHeads = 4;  // heads that share one pass over the cache
constexpr float kLowest = -std::numeric_limits<float>::infinity();

using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Words = int32_t __attribute__((vector_size(kLanes * sizeof(int32_t))));

#define TESSERA_INLINE [[gnu::always_inline]] inline

TESSERA_INLINE void Load(const float* p, Floats& out) { std::memcpy(&out, p, sizeof(out)); }
TESSERA_INLINE void Store(const Floats& v, float* p) { std::memcpy(p, &v, sizeof(v)); }

TESSERA_INLINE float SumLanes(const Floats& v) {
  float lanes[kLanes];
  Store(v, lanes);
  for (int64_t step = kLanes / 2; step > 0; step /= 2)
    for (int64_t i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  return lanes[0];
}

// x = exp(x) for x <= 0, to about 1e-7 of the value; 0 below -87, where fp32 turns subnormal.
// exp(x) = 2^n exp(r) with |r| <= ln(2)/2, and the Taylor series of exp to r^7, whose next term
// is 5e-9.
TESSERA_INLINE void ExpInPlace(Floats& x) {
  constexpr float kRounder = 12582912.f;  // 1.5 * 2^23: adding it rounds to a whole number
  const Words underflow = x < -87.f;
  const Floats clamped = underflow ? Floats{} - 87.f : x;
  const Floats n = (clamped * 1.442695041f + kRounder) - kRounder;
  const Floats r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;  // ln(2) in two parts
  Floats sum = r * (1.f / 5040) + 1.f / 720;
  sum = sum * r + 1.f / 120;
  sum = sum * r + 1.f / 24;
  sum = sum * r + 1.f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.f;
  sum = sum * r + 1.f;
  const Words power = (__builtin_convertvector(n, Words) + 127) << 23;
  Floats scale;
  std::memcpy(&scale, &power, sizeof(scale));
  x = underflow ? Floats{} : sum * scale;
}

// Softmax state of one head: out = acc / sum at the end.
struct HeadState {
  float max = kLowest;
  float sum = 0.f;
  float acc[kMaxHeadSize] = {};
};

// Takes `count` <= kTile consecutive tokens of the cache into `state`.
TESSERA_INLINE void AttendTile(const AttendRowArgs& a, const float* q, const float* k,
                               const float* v, int64_t count, HeadState& state) {
  float scores[kTile];
  for (int64_t j = 0; j < count; ++j) {
    Floats dot = {};
    for (int64_t at = 0; at < a.e; at += kLanes) {
      Floats x, y;
      Load(q + at, x);
      Load(k + j * a.e + at, y);
      dot += x * y;
    }
    scores[j] = SumLanes(dot) * a.scale;
  }
  std::fill(scores + count, scores + kTile, kLowest);
  const float max = std::max(state.max, *std::max_element(scores, scores + count));
  Floats p;
  Load(scores, p);
  p -= max;
  ExpInPlace(p);
  Floats rescale = Floats{} + (state.max - max);
  ExpInPlace(rescale);
  state.max = max;
  state.sum = state.sum * rescale[0] + SumLanes(p);
  Store(p, scores);
  for (int64_t at = 0; at < a.e; at += kLanes) {
    Floats acc, y;
    Load(state.acc + at, acc);
    acc *= rescale;
    for (int64_t j = 0; j < count; ++j) {
      Load(v + j * a.e + at, y);
      acc += scores[j] * y;
    }
    Store(acc, state.acc + at);
  }
}

TESSERA_INLINE void AttendRow(const AttendRowArgs& a) {
  for (int64_t first = 0; first < a.heads; first += kHeads) {
    const int64_t heads = std::min(kHeads, a.heads - first);
    HeadState states[kHeads];
    for (int64_t token = 0; token < a.context; token += kTile) {
      const int64_t block =
          std::clamp<int64_t>(a.blocks[token / a.block_size], 0, a.block_count - 1);
      const int64_t at = block * a.block_stride + token % a.block_size * a.e;
      const int64_t count = std::min(kTile, a.context - token);
      for (int64_t i = 0; i < heads; ++i)
        AttendTile(a, a.q + (first + i) * a.e, a.k_cache + at, a.v_cache + at, count, states[i]);
    }
    for (int64_t i = 0; i < heads; ++i)
      for (int64_t j = 0; j < a.e; ++j)
        a.out[(first + i) * a.e + j] = states[i].acc[j] / states[i].sum;
  }
}

[[gnu::target("avx512f,avx512bw,avx512vl,fma,prefer-vector-width=512")]] void AttendRowAvx512(
    const AttendRowArgs& a) {
  AttendRow(a);
}

[[gnu::target("avx2,fma")]] void AttendRowAvx2(const AttendRowArgs& a) { AttendRow(a); }

void AttendRowPlain(const AttendRowArgs& a) { AttendRow(a); }

}  // namespace

AttendRowFn AttendRowForThisCpu() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return AttendRowAvx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AttendRowAvx2;
  return AttendRowPlain;
}

}  // namespace tessera
