// Data and double-precision references for reductions of 16-bit floats.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "common/float16.h"

namespace tessera::testing {

// What rank `rank` brings to call `call`; every rank can compute what all others bring.
inline std::vector<uint16_t> RandomBf16(int call, int rank, int64_t count) {
  std::mt19937 random(static_cast<uint32_t>(call * 64 + rank));
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(static_cast<size_t>(count));
  for (uint16_t& v : values) v = FloatToBf16(normal(random));
  return values;
}

struct NormCase {
  int ranks = 0;
  int64_t t = 0, d = 0;
  float eps = 1e-6f;
};

// residual and y of all-reduce + residual + RMSNorm, from bf16 inputs, in double throughout.
struct NormReference {
  std::vector<double> residual, y;
};
inline NormReference ReferenceNorm(const NormCase& c, int call,
                                   const std::vector<uint16_t>& residual,
                                   const std::vector<uint16_t>& weight) {
  NormReference out;
  for (const uint16_t v : residual) out.residual.push_back(Bf16ToFloat(v));
  for (int r = 0; r < c.ranks; ++r) {
    const std::vector<uint16_t> part = RandomBf16(call, r, c.t * c.d);
    for (size_t i = 0; i < part.size(); ++i) out.residual[i] += Bf16ToFloat(part[i]);
  }
  out.y.resize(out.residual.size());
  const auto d = static_cast<size_t>(c.d);
  for (size_t row = 0; row < static_cast<size_t>(c.t); ++row) {
    double squares = 0;
    for (size_t i = 0; i < d; ++i) squares += std::pow(out.residual[row * d + i], 2);
    const double scale = 1 / std::sqrt(squares / static_cast<double>(d) + c.eps);
    for (size_t i = 0; i < d; ++i)
      out.y[row * d + i] = out.residual[row * d + i] * scale * Bf16ToFloat(weight[i]);
  }
  return out;
}

// The largest |got - want| / (|want| + floor).
inline double WorstError(const std::vector<uint16_t>& got, const std::vector<double>& want,
                         double floor) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(Bf16ToFloat(got[i]) - want[i]) / (std::abs(want[i]) + floor);
    worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
  }
  return worst;
}

// Rounding to bf16's 8 significant bits is at most 2^-8 = 0.0039063 of the value; the rest covers
// the fp32 sum and products of roundings. The residual has one rounding; y has three: of the
// residual, of the normed value and of the product. NCCL also rounds each partial sum, ranks - 1
// times more.
inline constexpr double kBf16Rounding = 0.00393;

}  // namespace tessera::testing
