// Where the attention kernels write: rows of the output, in column order or in another.
#pragma once

#include <cstdint>

#include "kernels/attention/paged_attention.h"
#include "kernels/device/place_column.cuh"

namespace tessera {

struct AttentionOut {
  char* data;
  const int32_t* places;  // of a row's columns, or null
  int32_t width;          // elements of a row

  // Eight columns of row `row` from `column` on (uint4), or four (uint2); a multiple of as many.
  template <typename Piece>
  __device__ __forceinline__ void Store(int64_t row, int column, const Piece& piece) const {
    char* const start = data + row * width * 2;
    if (places == nullptr)
      *reinterpret_cast<Piece*>(start + column * 2) = piece;
    else
      PlaceColumns(places + column, piece, reinterpret_cast<uint16_t*>(start));
  }
  // Zeros for the row, by `threads` threads of which this is number `thread`.
  __device__ __forceinline__ void StoreZeros(int64_t row, int thread, int threads) const {
    auto* const pieces = reinterpret_cast<uint4*>(data + row * width * 2);
    for (int i = thread; i < width / 8; i += threads) pieces[i] = {};
  }
};

inline AttentionOut AttentionOutOf(const PagedAttentionArgs& a) {
  return {static_cast<char*>(a.out), a.out_order.places,
          static_cast<int32_t>(a.out_order.WidthOf(a.h * a.e))};
}

}  // namespace tessera
