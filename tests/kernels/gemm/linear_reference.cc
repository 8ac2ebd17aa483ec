#include "tests/kernels/gemm/linear_reference.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include <absl/strings/str_cat.h>

#include "kernels/gemm/gemv_config.h"
#include "tests/support/op_fixture.h"

namespace tessera {
namespace {

using testing::RoundedTo;
using testing::SeededRandom;

// Half a unit in the last place of 1.0: bf16 keeps 7 bits after the point, f16 10, fp32 23.
double HalfUlp(DType dtype) {
  return dtype == DType::kBf16 ? 0x1p-8 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-24;
}

struct Sum {
  double value = 0, error = 0;
};

// Error bound of a dot product: fp32 partial sums err by at most k rounding steps of the sum of
// magnitudes (far less with 16 or more lanes); when x is rounded after a norm computed in fp32, up
// to four elements may round the other way than in double.
Sum Dot(const std::vector<double>& x, const LinearInputs& in, int64_t row) {
  const LinearCase& shape = in.shape;
  const float* w = in.w.data() + row * shape.k;
  Sum sum;
  double magnitude = 0, squares = 0, largest = 0;
  for (int64_t i = 0; i < shape.k; ++i) {
    const double term = x[static_cast<size_t>(i)] * w[i];
    sum.value += term;
    magnitude += std::abs(term);
    squares += term * term;
    largest = std::max(largest, std::abs(term));
  }
  const double steps = std::min<double>(static_cast<double>(shape.k), 64.) + 4.;
  sum.error = steps * 0x1p-24 * magnitude;
  // Normed elements that miss the reference's rounding, a few; or each off by a little of the
  // largest near it.
  if (shape.normed && in.fine_norm) sum.error += 6 * 0x1p-12 * std::sqrt(squares);
  if (shape.normed && !in.fine_norm)
    sum.error += 4 * 2 * HalfUlp(shape.dtype) * largest + 4 * 0x1p-23 * magnitude;
  return sum;
}

std::vector<double> Norm(const LinearInputs& in, int64_t row) {
  const float* x = in.x.data() + row * in.shape.k;
  std::vector<double> out(x, x + in.shape.k);
  if (!in.shape.normed) return out;
  double squares = 0;
  for (const double v : out) squares += v * v;
  const double scale = 1 / std::sqrt(squares / static_cast<double>(in.shape.k) + in.norm_eps);
  std::vector<float> scaled(out.size());
  for (size_t i = 0; i < out.size(); ++i)
    scaled[i] = static_cast<float>(out[i] * scale * in.norm_weight[i]);
  if (!in.fine_norm) scaled = RoundedTo(in.shape.dtype, scaled);
  out.assign(scaled.begin(), scaled.end());
  return out;
}

// The library path stores gate and up in `dtype` before the product.
Sum Gate(Sum gate, Sum up, DType dtype) {
  gate.error += HalfUlp(dtype) * std::abs(gate.value);
  up.error += HalfUlp(dtype) * std::abs(up.value);
  const double silu = gate.value / (1 + std::exp(-gate.value));
  constexpr double kMaxSlope = 1.1;  // of silu
  return {.value = silu * up.value,
          .error = kMaxSlope * gate.error * (std::abs(up.value) + up.error) +
                   std::abs(silu) * up.error + 0x1p-20 * std::abs(silu * up.value)};
}

}  // namespace

LinearInputs RandomLinear(const LinearCase& c, uint32_t seed) {
  SeededRandom random(seed);
  const auto values = [&](int64_t count, float scale, DType dtype) {
    return RoundedTo(dtype, random.Normal(count, scale));
  };
  LinearInputs in;
  in.shape = c;
  in.x = values(c.t * c.k, 1.5f, c.dtype);
  in.w = values((c.gated ? 2 : 1) * c.n * c.k, 2.f / std::sqrt(static_cast<float>(c.k)),
                c.weight_dtype);
  if (c.bias) in.bias = values(c.n, 1.f, c.dtype);
  if (c.residual) in.residual = values(c.t * c.n, 1.f, c.dtype);
  if (c.normed) in.norm_weight = values(c.k, 1.f, c.dtype);
  return in;
}

LinearArgs ArgsOfShape(const LinearInputs& in) {
  const LinearCase& c = in.shape;
  return {.norm_eps = in.norm_eps,
          .gated = c.gated,
          .t = c.t,
          .n = c.n,
          .k = c.k,
          .dtype = c.dtype,
          .weight_dtype = c.weight_dtype,
          .y_dtype = c.y_dtype};
}

LinearExpected LinearReference(const LinearInputs& in) {
  const LinearCase& c = in.shape;
  LinearExpected out;
  for (int64_t t = 0; t < c.t; ++t) {
    const std::vector<double> x = Norm(in, t);
    for (int64_t n = 0; n < c.n; ++n) {
      Sum sum = Dot(x, in, n);
      if (c.gated) sum = Gate(sum, Dot(x, in, c.n + n), c.dtype);
      // The library may round the product, and again after each addition.
      const auto add = [&](float value) {
        if (c.t > kGemvMaxRows) sum.error += HalfUlp(c.y_dtype) * std::abs(sum.value);
        sum.value += value;
      };
      if (c.residual) add(in.residual[static_cast<size_t>(t * c.n + n)]);
      if (c.bias) add(in.bias[static_cast<size_t>(n)]);
      out.y.push_back(sum.value);
      out.tolerance.push_back(1.01 * (sum.error + HalfUlp(c.y_dtype) * std::abs(sum.value)) + 1e-7);
    }
  }
  return out;
}

LinearMismatch CompareLinear(const LinearExpected& expected, const std::vector<float>& y,
                             int64_t n) {
  LinearMismatch result;
  double worst = 1;
  for (size_t i = 0; i < expected.y.size(); ++i) {
    const double excess = std::abs(y[i] - expected.y[i]) / expected.tolerance[i];
    if (excess <= 1) continue;
    ++result.count;
    if (excess <= worst) continue;
    worst = excess;
    const auto at = static_cast<int64_t>(i);
    result.worst = absl::StrCat("y[", at / n, ", ", at % n, "] = ", y[i], ", reference ",
                                expected.y[i], " +- ", expected.tolerance[i]);
  }
  // NaN compares false with everything, so it is looked for by itself.
  for (size_t i = 0; i < expected.y.size(); ++i) {
    if (!std::isnan(y[i])) continue;
    ++result.count;
    result.worst = absl::StrCat("y[", i / static_cast<size_t>(n), ", ", i % static_cast<size_t>(n),
                                "] is NaN");
  }
  return result;
}

}  // namespace tessera
