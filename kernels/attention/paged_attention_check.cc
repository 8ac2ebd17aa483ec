#include "kernels/attention/paged_attention_check.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "kernels/gemm/column_places_check.h"

namespace tessera {

absl::Status CheckPagedAttention(const PagedAttentionArgs& a, Device device) {
  const int64_t smallest = std::min({a.t, a.s, a.h, a.g, a.e, a.decode_sequences, a.block_size,
                                     a.max_blocks, a.blocks, a.max_query, a.max_context});
  if (smallest < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("paged_attention: t=", a.t, " s=", a.s, " h=", a.h, " g=", a.g, " e=", a.e,
                     " decode_sequences=", a.decode_sequences, " block_size=", a.block_size,
                     " max_blocks=", a.max_blocks, " blocks=", a.blocks, " max_query=", a.max_query,
                     " max_context=", a.max_context, ", none may be negative"));
  if (a.g == 0 ? a.h != 0 : a.h % a.g != 0)
    return absl::InvalidArgumentError(
        absl::StrCat("paged_attention: ", a.h, " heads do not split over ", a.g, " kv heads"));
  if (a.decode_sequences > a.s || a.decode_sequences > a.t)
    return absl::InvalidArgumentError(
        absl::StrCat("paged_attention: decode_sequences=", a.decode_sequences, " of s=", a.s,
                     " sequences and t=", a.t, " rows"));
  if ((a.rotation.q_norm == nullptr) != (a.rotation.k_norm == nullptr))
    return absl::InvalidArgumentError(absl::StrCat("paged_attention: only the ",
                                                   a.rotation.q_norm != nullptr ? "q" : "k",
                                                   " norm weight is set, needs both or none"));
  RETURN_IF_ERROR(CheckPlaces("paged_attention", a.out_order, a.h * a.e));
  if (device == Device::kCpu ? a.dtype != DType::kF32
                             : a.dtype != DType::kBf16 && a.dtype != DType::kF16)
    return absl::UnimplementedError(
        absl::StrCat("paged_attention: no kernel for ", Name(a.dtype),
                     device == Device::kCpu ? " on the CPU" : " on CUDA"));
  if (a.e != 32 && a.e != 64 && a.e != 128)
    return absl::UnimplementedError(
        absl::StrCat("paged_attention: no kernel for heads of ", a.e, ", only for 32, 64, 128"));
  if (a.block_size == 0 || a.block_size % 16 != 0)
    return absl::UnimplementedError(absl::StrCat("paged_attention: no kernel for blocks of ",
                                                 a.block_size,
                                                 " tokens, only for multiples of 16"));
  return absl::OkStatus();
}

}  // namespace tessera
