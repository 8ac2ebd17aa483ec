// Orders of columns as column_places.h has them, for the tests of ops that write them.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/gemm/column_places.h"
#include "tests/support/op_fixture.h"

namespace tessera::testing {

// A random order of `columns` columns over `width` places, a multiple of 16.
struct ColumnOrder {
  std::vector<int32_t> places;
  std::vector<int32_t> source;  // [width]: the column of each place, -1 where there is none

  int64_t width() const { return static_cast<int64_t>(source.size()); }
  // A row of `columns` as it is to come out.
  std::vector<float> Ordered(const float* row) const {
    std::vector<float> out;
    for (const int32_t from : source) out.push_back(from < 0 ? 0.f : row[from]);
    return out;
  }
};

// Columns follow one another in runs, each filled up to a multiple of 16 with zeros, as groups of a
// quantized matrix are.
inline ColumnOrder RandomOrder(int64_t columns, uint64_t seed) {
  SeededRandom random(seed);
  std::vector<int32_t> shuffled;
  for (int64_t j = 0; j < columns; ++j) shuffled.push_back(static_cast<int32_t>(j));
  for (int64_t j = columns - 1; j > 0; --j)
    std::swap(shuffled[static_cast<size_t>(j)], shuffled[static_cast<size_t>(random.Below(j + 1))]);
  ColumnOrder order;
  order.places.resize(static_cast<size_t>(columns));
  size_t last = 0;  // column that was placed last
  int64_t run = 1 + random.Below(40);
  for (size_t j = 0; j < shuffled.size(); ++j) {
    last = static_cast<size_t>(shuffled[j]);
    order.places[last] = EncodePlace(static_cast<int32_t>(order.width()), 0);
    order.source.push_back(shuffled[j]);
    if (--run > 0 && j + 1 < shuffled.size()) continue;
    while (order.width() % 16 != 0) {
      order.source.push_back(-1);
      ++order.places[last];  // one more zero behind it
    }
    run = 1 + random.Below(40);
  }
  return order;
}

// Expects `rows` [t, columns] in that order at element `at` of y.
inline void ExpectOrdered(const std::vector<float>& y, int64_t at, const std::vector<float>& rows,
                          const ColumnOrder& order, int64_t t) {
  const auto columns = static_cast<int64_t>(order.places.size());
  for (int64_t i = 0; i < t; ++i) {
    const auto begin = y.begin() + at + i * order.width();
    ASSERT_EQ(std::vector<float>(begin, begin + order.width()),
              order.Ordered(rows.data() + i * columns))
        << "row " << i;
  }
}

}  // namespace tessera::testing
