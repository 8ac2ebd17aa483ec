#include <cmath>

#include <absl/strings/str_cat.h>

#include "kernels/gemm/silu_mul.h"

namespace tessera {

absl::Status SiluMulCpu(const SiluMulArgs& a, const Stream&) {
  if (a.t < 0 || a.n < 0)
    return absl::InvalidArgumentError(absl::StrCat("silu_mul: t=", a.t, " n=", a.n));
  if (a.dtype != DType::kF32 || a.y_dtype != DType::kF32)
    return absl::UnimplementedError(absl::StrCat("silu_mul: no kernel for ", Name(a.dtype), " to ",
                                                 Name(a.y_dtype), " on the CPU"));
  for (int64_t i = 0; i < a.t; ++i) {
    const float* gate = static_cast<const float*>(a.both) + i * 2 * a.n;
    float* y = static_cast<float*>(a.y) + i * a.n;
    for (int64_t j = 0; j < a.n; ++j) y[j] = gate[j] / (1.f + std::exp(-gate[j])) * gate[a.n + j];
  }
  return absl::OkStatus();
}

}  // namespace tessera
