// What ops refuse about the orders they are to write.
#pragma once

#include <cstdint>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/string_view.h>

#include "kernels/gemm/column_places.h"

namespace tessera {

// kInvalidArgument: a width that does not hold `columns` columns or is no multiple of 16; `op`
// starts the message.
inline absl::Status CheckPlaces(absl::string_view op, const ColumnPlaces& places, int64_t columns) {
  if (places.places == nullptr || (places.width >= columns && places.width % 16 == 0))
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(op, ": an order of ", places.width, " places for ", columns,
                   " columns, needs a multiple of 16 of at least these"));
}

// The same of every copy. kInvalidArgument too: more copies than there can be.
inline absl::Status CheckCopies(absl::string_view op, const ColumnCopies& copies, int64_t columns) {
  if (copies.count < 0 || copies.count > ColumnCopies::kMax)
    return absl::InvalidArgumentError(
        absl::StrCat(op, ": ", copies.count, " copies, at most ", ColumnCopies::kMax));
  for (int i = 0; i < copies.count; ++i) {
    const absl::Status status = CheckPlaces(op, copies.copies[i], columns);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace tessera
