#include <algorithm>

#include <absl/strings/str_cat.h>

#include "kernels/gemm/copy_columns.h"

namespace tessera {

absl::Status CopyColumnsCpu(const CopyColumnsArgs& a, const Stream&) {
  if (a.t < 0 || a.n < 0 || a.y_stride < a.n)
    return absl::InvalidArgumentError(
        absl::StrCat("copy_columns: t=", a.t, " n=", a.n, " y_stride=", a.y_stride));
  if (a.dtype != DType::kF32)
    return absl::UnimplementedError(
        absl::StrCat("copy_columns: no kernel for ", Name(a.dtype), " on the CPU"));
  for (int64_t i = 0; i < a.t; ++i)
    std::copy_n(static_cast<const float*>(a.x) + i * a.n, a.n,
                static_cast<float*>(a.y) + i * a.y_stride);
  return absl::OkStatus();
}

}  // namespace tessera
