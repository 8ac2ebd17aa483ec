// Writing rows in the order of kernels/gemm/column_places.h.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "kernels/gemm/column_places.h"

namespace tessera {

// One column, whose entry of the list is `entry`, in 16-bit elements: its bits, and the zeros that
// follow.
__device__ __forceinline__ void PlaceColumn(int32_t entry, uint16_t bits, uint16_t* row) {
  const auto at =
      static_cast<uint32_t>(entry);  // so that division and remainder are one shift each
  uint16_t* to = row + at / (kMaxZerosAfter + 1);
  *to = bits;
  for (uint32_t left = at % (kMaxZerosAfter + 1); left > 0; --left) *++to = 0;
}

// 32 bits: two columns that lie side by side in the list.
__device__ __forceinline__ void PlaceColumns(const int32_t* entries, uint32_t pair, uint16_t* row) {
  PlaceColumn(entries[0], static_cast<uint16_t>(pair), row);
  PlaceColumn(entries[1], static_cast<uint16_t>(pair >> 16), row);
}

// 16 bytes: eight columns, with their entries at `entries`, aligned to 16 bytes.
__device__ __forceinline__ void PlaceColumns(const int32_t* entries, const uint4& eight,
                                             uint16_t* row) {
  int32_t list[8];
  *reinterpret_cast<int4*>(list) = *reinterpret_cast<const int4*>(entries);
  *reinterpret_cast<int4*>(list + 4) = *reinterpret_cast<const int4*>(entries + 4);
  PlaceColumns(list, eight.x, row);
  PlaceColumns(list + 2, eight.y, row);
  PlaceColumns(list + 4, eight.z, row);
  PlaceColumns(list + 6, eight.w, row);
}

// 8 bytes: four columns, as above.
__device__ __forceinline__ void PlaceColumns(const int32_t* entries, const uint2& four,
                                             uint16_t* row) {
  int32_t list[4];
  *reinterpret_cast<int4*>(list) = *reinterpret_cast<const int4*>(entries);
  PlaceColumns(list, four.x, row);
  PlaceColumns(list + 2, four.y, row);
}

}  // namespace tessera
