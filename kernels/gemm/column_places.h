// In which order a row's columns are written for a matrix that takes its inputs in an order of its
// own (act-order), so that no kernel of its own has to sort them.
#pragma once

#include <cstdint>

namespace tessera {

// Column j of a row goes to place PlaceOf(places[j]) of an ordered row of `width`, and zeros to the
// ZerosAfter(places[j]) places after that, which no column has. Every place is written once.
struct ColumnPlaces {
  const int32_t* places = nullptr;  // [columns] device; null: column j goes to place j
  int64_t width = 0;                // a multiple of 16, at least `columns`; counts with places only

  constexpr int64_t WidthOf(int64_t columns) const { return places != nullptr ? width : columns; }
};

inline constexpr int32_t kMaxZerosAfter = 15;
constexpr int32_t EncodePlace(int32_t place, int32_t zeros_after) {
  return place * (kMaxZerosAfter + 1) + zeros_after;
}
constexpr int32_t PlaceOf(int32_t entry) { return entry / (kMaxZerosAfter + 1); }
constexpr int32_t ZerosAfter(int32_t entry) { return entry % (kMaxZerosAfter + 1); }

// Rows of one output in several orders, for matrices that read the same rows: copy i of all t rows,
// [t, width], lies behind copy i - 1.
struct ColumnCopies {
  static constexpr int kMax = 3;  // q, k and v
  ColumnPlaces copies[kMax];
  int count = 0;  // 0: one copy, the columns as they are

  // Elements of a row of all copies, of `columns` columns.
  constexpr int64_t Width(int64_t columns) const {
    int64_t width = count == 0 ? columns : 0;
    for (int i = 0; i < count; ++i) width += copies[i].WidthOf(columns);
    return width;
  }
};

}  // namespace tessera
