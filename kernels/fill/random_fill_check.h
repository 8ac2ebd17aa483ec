// Argument checks of RandomFill, the same on both devices.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "kernels/fill/random_fill.h"

namespace tessera {

inline absl::Status CheckRandomFill(const RandomFillArgs& a) {
  if (a.rows < 0 || a.cols < 0 || a.dst_stride < 0 || a.first_row < 0 || a.first_col < 0 ||
      a.row_stride < 0)
    return absl::InvalidArgumentError(absl::StrCat(
        "random_fill: rows=", a.rows, " cols=", a.cols, " dst_stride=", a.dst_stride,
        " first_row=", a.first_row, " first_col=", a.first_col, " row_stride=", a.row_stride));
  if (!IsFloat(a.dtype))
    return absl::UnimplementedError(absl::StrCat("random_fill: dtype ", Name(a.dtype)));
  return absl::OkStatus();
}

}  // namespace tessera
