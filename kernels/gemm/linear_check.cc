#include "kernels/gemm/linear_check.h"

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "kernels/gemm/linear_config.h"

namespace tessera {
namespace {

bool DtypesServed(const LinearArgs& a, Device device) {
  const bool packed = a.packed.values != nullptr;
  if (device == Device::kCpu)
    return a.dtype == DType::kF32 && a.y_dtype == DType::kF32 &&
           (packed || IsFloat(a.weight_dtype));
  return (a.dtype == DType::kBf16 || a.dtype == DType::kF16) &&
         (packed || a.weight_dtype == a.dtype) &&
         (a.y_dtype == a.dtype || a.y_dtype == DType::kF32);
}

// Multiples that the layout of a packed weight has (packed_weight.h).
absl::Status CheckPackedSize(absl::string_view field, int64_t value, int64_t needed,
                             int64_t multiple) {
  if (value != needed)
    return absl::InvalidArgumentError(
        absl::StrCat("linear: packed.", field, "=", value, ", the product's is ", needed));
  if (value % multiple != 0)
    return absl::InvalidArgumentError(
        absl::StrCat("linear: packed.", field, "=", value, " is not a multiple of ", multiple));
  return absl::OkStatus();
}

absl::Status CheckPacked(const LinearArgs& a) {
  const PackedWeight& w = a.packed;
  if (w.bits != 4 && w.bits != 8)
    return absl::InvalidArgumentError(
        absl::StrCat("linear: packed.bits=", w.bits, ", must be 4 or 8"));
  RETURN_IF_ERROR(CheckPackedSize("n", w.n, (a.gated ? 2 : 1) * a.n, 8));
  RETURN_IF_ERROR(CheckPackedSize("k", w.k, a.k, kPackedStep));
  if (w.scales == nullptr)
    return absl::InvalidArgumentError("linear: packed.scales is null, the values need scales");
  if (w.groups < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("linear: packed.groups=", w.groups, ", needs 1 or more"));
  if (w.group_of_step != nullptr) return absl::OkStatus();
  if (w.group != 32 && w.group != 64 && (w.group <= 0 || (w.group % 128 != 0 && w.group < w.k)))
    return absl::InvalidArgumentError(
        absl::StrCat("linear: packed.group=", w.group, " for k=", w.k,
                     ", must be 32, 64, a multiple of 128, or k or more"));
  if (w.groups < CeilDiv(w.k, w.group))
    return absl::InvalidArgumentError(absl::StrCat("linear: packed.groups=", w.groups, " of ",
                                                   w.group, " for k=", w.k, ", needs ",
                                                   CeilDiv(w.k, w.group)));
  return absl::OkStatus();
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
  if (a.packed.values != nullptr) RETURN_IF_ERROR(CheckPacked(a));
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
