#include "kernels/gemm/dot_block_cpu.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "common/check.h"

// Vectors are GCC's generic ones, so one body serves every instruction set; passing a 64-byte
// vector between functions would depend on the set, and everything here is inlined instead.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace tessera {
namespace {

constexpr int64_t kLanes = 16;

using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Words = uint32_t __attribute__((vector_size(kLanes * sizeof(uint32_t))));
using Halves = uint16_t __attribute__((vector_size(kLanes * sizeof(uint16_t))));

#define TESSERA_INLINE [[gnu::always_inline]] inline

struct F32Row {
  using Element = float;
  TESSERA_INLINE static void Load(const float* p, Floats& out) {
    std::memcpy(&out, p, sizeof(out));
  }
};

struct Bf16Row {
  using Element = uint16_t;
  TESSERA_INLINE static void Load(const uint16_t* p, Floats& out) {
    Halves bits;
    std::memcpy(&bits, p, sizeof(bits));
    const Words wide = __builtin_convertvector(bits, Words) << 16;
    std::memcpy(&out, &wide, sizeof(out));
  }
};

struct F16Row {
  using Element = uint16_t;
  TESSERA_INLINE static void Load(const uint16_t* p, Floats& out) {
    Halves bits;
    std::memcpy(&bits, p, sizeof(bits));
    const Words wide = __builtin_convertvector(bits, Words);
    // Exponent and mantissa moved to fp32's places are 2^112 too small; the product also makes
    // subnormals right. Infinity and NaN keep an all-ones exponent.
    const Words magnitude = (wide & 0x7fffu) << 13;
    Floats value;
    std::memcpy(&value, &magnitude, sizeof(value));
    value *= std::bit_cast<float>(0x77800000u);  // 2^112
    Words result;
    std::memcpy(&result, &value, sizeof(result));
    const Words special = reinterpret_cast<Words>((wide & 0x7c00u) == 0x7c00u);
    result |= (special & 0x7f800000u) | ((wide & 0x8000u) << 16);
    std::memcpy(&out, &result, sizeof(out));
  }
};

TESSERA_INLINE float SumLanes(const Floats& v) {
  float lanes[kLanes];
  std::memcpy(lanes, &v, sizeof(lanes));
  for (int64_t step = kLanes / 2; step > 0; step /= 2)
    for (int64_t i = 0; i < step; ++i) lanes[i] += lanes[i + step];
  return lanes[0];
}

// kRows x kTokens outputs at once: independent sums hide the latency of the multiply-add.
template <typename Row, size_t kRows, size_t kTokens>
TESSERA_INLINE void DotTile(const float* const (&x)[kTokens],
                            const typename Row::Element* const (&w)[kRows], int64_t k,
                            float (&sums)[kTokens][kRows]) {
  Floats acc[kTokens][kRows] = {};
  const int64_t whole = k - k % kLanes;
  for (int64_t at = 0; at < whole; at += kLanes) {
    Floats weights[kRows];
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) Row::Load(w[r] + at, weights[r]);
#pragma GCC unroll 4
    for (size_t i = 0; i < kTokens; ++i) {
      Floats values;
      F32Row::Load(x[i] + at, values);
#pragma GCC unroll 4
      for (size_t r = 0; r < kRows; ++r) acc[i][r] += values * weights[r];
    }
  }
  if (whole < k) {
    const auto rest = static_cast<size_t>(k - whole);
    Floats weights[kRows];
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      typename Row::Element padded[kLanes] = {};
      std::memcpy(padded, w[r] + whole, rest * sizeof(padded[0]));
      Row::Load(padded, weights[r]);
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < kTokens; ++i) {
      float padded[kLanes] = {};
      std::memcpy(padded, x[i] + whole, rest * sizeof(float));
      Floats values;
      F32Row::Load(padded, values);
#pragma GCC unroll 4
      for (size_t r = 0; r < kRows; ++r) acc[i][r] += values * weights[r];
    }
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < kTokens; ++i)
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) sums[i][r] = SumLanes(acc[i][r]);
}

// Tokens [first, last) in tiles of kTokens; a last tile short of rows repeats its last row.
template <typename Row, size_t kRows, size_t kTokens>
TESSERA_INLINE void DotTokens(const DotBlockArgs& a, int64_t first, int64_t last) {
  using Element = typename Row::Element;
  const auto row_count = static_cast<size_t>(a.row_count), k = static_cast<size_t>(a.k);
  for (size_t j = 0; j < row_count; j += kRows) {
    const Element* w[kRows];
    for (size_t r = 0; r < kRows; ++r)
      w[r] = static_cast<const Element*>(a.rows[std::min(j + r, row_count - 1)]);
    for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); i += kTokens) {
      const float* x[kTokens];
      for (size_t m = 0; m < kTokens; ++m) x[m] = a.x + (i + m) * k;
      float sums[kTokens][kRows];
      DotTile<Row, kRows, kTokens>(x, w, a.k, sums);
      for (size_t m = 0; m < kTokens; ++m)
        for (size_t r = 0; r < kRows && j + r < row_count; ++r)
          a.out[(i + m) * row_count + j + r] = sums[m][r];
    }
  }
}

// Tiles fill the set's vector registers: AVX-512 has 32 of one Floats each, AVX2 16 of half of one.
template <typename Row>
[[gnu::target("avx512f,avx512bw,avx512vl,fma,prefer-vector-width=512")]] void DotBlockAvx512(
    const DotBlockArgs& a) {
  const int64_t whole = a.t - a.t % 4;
  DotTokens<Row, 4, 4>(a, 0, whole);
  DotTokens<Row, 4, 1>(a, whole, a.t);
}

template <typename Row>
[[gnu::target("avx2,fma")]] void DotBlockAvx2(const DotBlockArgs& a) {
  const int64_t whole = a.t - a.t % 2;
  DotTokens<Row, 2, 2>(a, 0, whole);
  DotTokens<Row, 4, 1>(a, whole, a.t);
}

template <typename Row>
void DotBlockPlain(const DotBlockArgs& a) {
  DotTokens<Row, 2, 1>(a, 0, a.t);
}

template <typename Row>
DotBlockFn Choose() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return DotBlockAvx512<Row>;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return DotBlockAvx2<Row>;
  return DotBlockPlain<Row>;
}

}  // namespace

DotBlockFn DotBlockFor(DType weight_dtype) {
  TESSERA_CHECK(IsFloat(weight_dtype), "dtype ", Name(weight_dtype));
  switch (weight_dtype) {
    case DType::kBf16:
      return Choose<Bf16Row>();
    case DType::kF16:
      return Choose<F16Row>();
    default:
      return Choose<F32Row>();
  }
}

}  // namespace tessera
