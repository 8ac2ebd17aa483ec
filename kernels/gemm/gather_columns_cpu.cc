#include <absl/strings/str_cat.h>

#include "kernels/gemm/gather_columns.h"

namespace tessera {

absl::Status GatherColumnsCpu(const GatherColumnsArgs& a, const Stream&) {
  if (a.t < 0 || a.n < 0)
    return absl::InvalidArgumentError(absl::StrCat("gather_columns: t=", a.t, " n=", a.n));
  if (a.dtype != DType::kF32)
    return absl::UnimplementedError(
        absl::StrCat("gather_columns: no kernel for ", Name(a.dtype), " on the CPU"));
  for (int64_t i = 0; i < a.t; ++i) {
    const float* x = static_cast<const float*>(a.x) + i * a.x_stride;
    float* y = static_cast<float*>(a.y) + i * a.y_stride;
    for (int64_t j = 0; j < a.n; ++j) {
      const int64_t from = a.order != nullptr ? a.order[j] : j;
      y[j] = from < 0 ? 0.f : x[from];
    }
  }
  return absl::OkStatus();
}

}  // namespace tessera
