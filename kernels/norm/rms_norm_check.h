// What both back ends refuse about RmsNormArgs.
#pragma once

#include <cstdint>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "kernels/gemm/column_places_check.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// Widest ordered row of the CUDA op, whose block holds it in shared memory (48 KiB in all).
inline constexpr int64_t kMaxPlacedWidth = 24000;

// The errors that rms_norm.h promises: kInvalidArgument, kUnimplemented.
inline absl::Status CheckRmsNorm(const RmsNormArgs& a, Device device) {
  constexpr int64_t kMaxCudaWidth = 32768;
  if (a.t < 0 || a.d < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("rms_norm: t=", a.t, " d=", a.d, ", none may be negative"));
  if (device == Device::kCpu ? a.dtype != DType::kF32
                             : a.dtype != DType::kBf16 && a.dtype != DType::kF16)
    return absl::UnimplementedError(
        absl::StrCat("rms_norm: no kernel for ", Name(a.dtype),
                     device == Device::kCpu ? " on the CPU" : " on CUDA"));
  if (device == Device::kCuda && (a.d % 8 != 0 || a.d > kMaxCudaWidth))
    return absl::InvalidArgumentError(
        absl::StrCat("rms_norm: d=", a.d, ", needs a multiple of 8 of at most ", kMaxCudaWidth));
  if (a.add != nullptr && a.residual == nullptr)
    return absl::InvalidArgumentError("rms_norm: add needs a residual to add to");
  if (a.add != nullptr && a.rows != nullptr)
    return absl::InvalidArgumentError("rms_norm: add and rows exclude each other");
  RETURN_IF_ERROR(CheckCopies("rms_norm", a.copies, a.d));
  for (int i = 0; device == Device::kCuda && i < a.copies.count; ++i) {
    const ColumnPlaces& copy = a.copies.copies[i];
    if (copy.places != nullptr && copy.width > kMaxPlacedWidth)
      return absl::InvalidArgumentError(
          absl::StrCat("rms_norm: an order of ", copy.width, " places, at most ", kMaxPlacedWidth));
  }
  return absl::OkStatus();
}

}  // namespace tessera
