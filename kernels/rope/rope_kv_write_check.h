// What both back ends refuse about RopeKvWriteArgs.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "kernels/rope/rope_kv_write.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// The errors that rope_kv_write.h promises: kInvalidArgument, kUnimplemented.
inline absl::Status CheckRopeKvWrite(const RopeKvWriteArgs& a, Device device) {
  if (a.t < 0 || a.h < 0 || a.g < 0 || a.e < 0 || a.block_size < 0 || a.cache_tokens < 0)
    return absl::InvalidArgumentError(absl::StrCat(
        "rope_kv_write: t=", a.t, " h=", a.h, " g=", a.g, " e=", a.e, " block_size=", a.block_size,
        " cache_tokens=", a.cache_tokens, ", none may be negative"));
  if ((a.rotation.q_norm == nullptr) != (a.rotation.k_norm == nullptr))
    return absl::InvalidArgumentError(absl::StrCat("rope_kv_write: only the ",
                                                   a.rotation.q_norm != nullptr ? "q" : "k",
                                                   " norm weight is set, needs both or none"));
  if (device == Device::kCpu ? a.dtype != DType::kF32
                             : a.dtype != DType::kBf16 && a.dtype != DType::kF16)
    return absl::UnimplementedError(
        absl::StrCat("rope_kv_write: no kernel for ", Name(a.dtype),
                     device == Device::kCpu ? " on the CPU" : " on CUDA"));
  if (a.e != 32 && a.e != 64 && a.e != 128)
    return absl::UnimplementedError(
        absl::StrCat("rope_kv_write: no kernel for heads of ", a.e, ", only for 32, 64, 128"));
  return absl::OkStatus();
}

}  // namespace tessera
