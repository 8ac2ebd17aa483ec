// A row of floats in the order of column_places.h, for ops of the CPU back end.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/gemm/column_places.h"

namespace tessera {

// The n elements of `x` go to their places in the row `y`; `places` null: to the first n.
inline void PlaceRow(const float* x, const int32_t* places, int64_t n, float* y) {
  if (places == nullptr) {
    std::copy_n(x, n, y);
    return;
  }
  for (int64_t j = 0; j < n; ++j) {
    float* to = y + PlaceOf(places[j]);
    *to = x[j];
    std::fill_n(to + 1, ZerosAfter(places[j]), 0.f);
  }
}

}  // namespace tessera
