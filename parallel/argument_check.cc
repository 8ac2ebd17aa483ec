#include "parallel/argument_check.h"

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "kernels/gemm/column_places_check.h"

namespace tessera {

absl::Status CheckSum(int64_t count, DType dtype) {
  if (count < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("all-reduce: count=", count, ", may not be negative"));
  if (!IsFloat(dtype))
    return absl::UnimplementedError(
        absl::StrCat("all-reduce: no sum of ", Name(dtype), ", only of f32, f16 and bf16"));
  return absl::OkStatus();
}

absl::Status CheckAllReduceNorm(const AllReduceNormArgs& a) {
  if (a.t < 0 || a.d < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("all-reduce + norm: t=", a.t, " d=", a.d, ", none may be negative"));
  if (a.weight != nullptr && a.y == nullptr && a.t * a.d > 0)
    return absl::InvalidArgumentError("all-reduce + norm: a weight needs y to write to");
  RETURN_IF_ERROR(CheckCopies("all-reduce + norm", a.copies, a.d));
  return CheckSum(a.t * a.d, a.dtype);
}

absl::Status CheckBytes(int64_t bytes) {
  if (bytes < 0)
    return absl::InvalidArgumentError(
        absl::StrCat("collective: bytes=", bytes, ", may not be negative"));
  return absl::OkStatus();
}

absl::Status CheckTransfer(int64_t bytes, int peer, int rank, int size) {
  RETURN_IF_ERROR(CheckBytes(bytes));
  if (peer < 0 || peer >= size || peer == rank)
    return absl::InvalidArgumentError(absl::StrCat("transfer of rank ", rank, ": peer ", peer,
                                                   ", needs another rank of [0, ", size, ")"));
  return absl::OkStatus();
}

absl::Status CheckBroadcast(int64_t bytes, int root, int size) {
  RETURN_IF_ERROR(CheckBytes(bytes));
  if (root < 0 || root >= size)
    return absl::InvalidArgumentError(
        absl::StrCat("broadcast: root ", root, ", needs a rank of [0, ", size, ")"));
  return absl::OkStatus();
}

}  // namespace tessera
