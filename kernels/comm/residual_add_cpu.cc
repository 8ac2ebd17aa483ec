#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "kernels/comm/residual_add.h"

namespace tessera {

absl::Status ResidualAddCpu(const ResidualAddArgs& a, const Stream&) {
  if (a.count < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("residual_add: count=", a.count, ", may not be negative"));
  if (a.dtype != DType::kF32)
    return absl::UnimplementedError(
        absl::StrCat("residual_add: no kernel for ", Name(a.dtype), " on the CPU"));
  const auto* add = static_cast<const float*>(a.add);
  auto* residual = static_cast<float*>(a.residual);
  for (int64_t i = 0; i < a.count; ++i) residual[i] += add[i];
  return absl::OkStatus();
}

}  // namespace tessera
