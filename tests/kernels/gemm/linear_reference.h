// A linear layer's random inputs and its outputs in double precision, written for clarity.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/dtype.h"
#include "kernels/gemm/linear.h"

namespace tessera {

struct LinearCase {
  int64_t t = 1, n = 1, k = 8;
  bool normed = false, gated = false, bias = false, residual = false;
  DType dtype = DType::kF32, weight_dtype = DType::kF32, y_dtype = DType::kF32;
};

// Values are exact in the case's dtypes. Absent inputs are empty.
struct LinearInputs {
  LinearCase shape;
  std::vector<float> x, w, bias, residual, norm_weight;
  float norm_eps = 1e-6f;
  // The kernel keeps a normed x finer than its dtype.
  bool fine_norm = false;
};

LinearInputs RandomLinear(const LinearCase& shape, uint32_t seed);

// The arguments that the case fixes: sizes, dtypes, what is fused. No pointers.
LinearArgs ArgsOfShape(const LinearInputs& in);

// [t, n] each; |kernel - y| may be up to tolerance.
struct LinearExpected {
  std::vector<double> y, tolerance;
};
LinearExpected LinearReference(const LinearInputs& in);

// Counts outputs outside the tolerance and names the worst one; 0 and "" when all are inside.
struct LinearMismatch {
  int64_t count = 0;
  std::string worst;
};
LinearMismatch CompareLinear(const LinearExpected& expected, const std::vector<float>& y,
                             int64_t n);

}  // namespace tessera
