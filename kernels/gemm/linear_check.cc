#include "kernels/gemm/linear_check.h"

#include <absl/strings/str_cat.h>

#include "kernels/gemm/linear_config.h"

namespace tessera {
namespace {

bool DtypesServed(const LinearArgs& a, Device device) {
  if (device == Device::kCpu)
    return a.dtype == DType::kF32 && a.y_dtype == DType::kF32 && IsFloat(a.weight_dtype);
  return (a.dtype == DType::kBf16 || a.dtype == DType::kF16) && a.weight_dtype == a.dtype &&
         (a.y_dtype == a.dtype || a.y_dtype == DType::kF32);
}

}  // namespace

absl::Status CheckLinear(const LinearArgs& a, Device device, int sm_count) {
  if (a.t < 0 || a.n < 0 || a.k < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("linear: t=", a.t, " n=", a.n, " k=", a.k, ", none may be negative"));
  if (!DtypesServed(a, device))
    return absl::UnimplementedError(
        absl::StrCat("linear: no kernel for x ", Name(a.dtype), ", w ", Name(a.weight_dtype),
                     ", y ", Name(a.y_dtype), device == Device::kCpu ? " on the CPU" : " on CUDA"));
  if (device == Device::kCuda && a.k % 8 != 0)
    return absl::InvalidArgumentError(absl::StrCat("linear: k=", a.k, " is not a multiple of 8"));
  if (a.gated && (a.bias != nullptr || a.residual != nullptr))
    return absl::InvalidArgumentError("linear: a gated product takes no bias and no residual");
  if (a.t == 0 || a.n == 0) return absl::OkStatus();
  const int64_t needed =
      LinearWorkspaceBytes(device, sm_count, a.t, a.n, a.k, a.gated, a.norm_weight != nullptr);
  if (a.workspace_bytes < needed || (needed > 0 && a.workspace == nullptr))
    return absl::InvalidArgumentError(absl::StrCat("linear: workspace of ", a.workspace_bytes,
                                                   " bytes, t=", a.t, " n=", a.n, " k=", a.k,
                                                   " needs ", needed));
  return absl::OkStatus();
}

LinearWorkspace SplitLinearWorkspace(const LinearArgs& a) {
  auto* base = static_cast<char*>(a.workspace);
  const int64_t library = LinearWorkspaceBytes(Device::kCuda, 1, a.t, a.n, a.k, false, false);
  const int64_t normed =
      LinearWorkspaceBytes(Device::kCuda, 1, a.t, a.n, a.k, false, a.norm_weight != nullptr);
  return {.library = base,
          .library_bytes = library,
          .normed = base + library,
          .ungated = base + normed};
}

}  // namespace tessera
