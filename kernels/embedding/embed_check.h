// What both back ends refuse about EmbedArgs.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "kernels/embedding/embed.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// The errors that embed.h promises: kInvalidArgument, kUnimplemented.
inline absl::Status CheckEmbed(const EmbedArgs& a, Device device) {
  if (a.t < 0 || a.d < 0 || a.rows < 0 || a.first_row < 0)
    return absl::InvalidArgumentError(absl::StrCat("embed: t=", a.t, " d=", a.d, " rows=", a.rows,
                                                   " first_row=", a.first_row,
                                                   ", none may be negative"));
  const bool served =
      device == Device::kCpu
          ? a.dtype == DType::kF32 && IsFloat(a.table_dtype)
          : (a.dtype == DType::kBf16 || a.dtype == DType::kF16) && a.table_dtype == a.dtype;
  if (!served)
    return absl::UnimplementedError(
        absl::StrCat("embed: no kernel for table ", Name(a.table_dtype), ", y ", Name(a.dtype),
                     device == Device::kCpu ? " on the CPU" : " on CUDA"));
  if (device == Device::kCuda && a.d % 8 != 0)
    return absl::InvalidArgumentError(absl::StrCat("embed: d=", a.d, " is not a multiple of 8"));
  return absl::OkStatus();
}

}  // namespace tessera
