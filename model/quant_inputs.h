// Which inputs of a quantized matrix a rank multiplies, in which order, and by which groups'
// scales.
#pragma once

#include <cstdint>
#include <vector>

#include <absl/types/span.h>

#include "model/range.h"

namespace tessera {

// The columns of a packed weight. k is a multiple of 16, and every run of 16 has one group.
struct QuantInputs {
  int64_t k = 0;
  // In order: column j is input first + j, and `source` is empty. Otherwise column j is input
  // source[j], or none when that is negative (padding of a group's run).
  int64_t first = 0;
  std::vector<int32_t> source;
  std::vector<int32_t> groups;          // the file's group of each local group, ascending
  std::vector<uint16_t> group_of_step;  // local group of each 16 columns; empty: j / group
  int64_t group = 0;                    // inputs a group; k or more: one group

  bool in_order() const { return source.empty(); }
};

// A file's grouping of `total` inputs: `group` of them share a scale (all when not positive), the
// k-th is of g_idx[k], or of k / group when g_idx is empty.
struct InputGroups {
  int64_t total = 0, group = 0;
  absl::Span<const int32_t> g_idx;
};

// The inputs [range.begin, range.end), multiples of 16. In order when g_idx is empty; else sorted
// by group, equal groups in order, and the run of each group padded to a multiple of 16.
QuantInputs InputsOfRange(const InputGroups& groups, Range range);

// The inputs at places [places.begin, places.end) of all inputs sorted by group, equal groups in
// order; runs padded as above. g_idx is not empty.
QuantInputs InputsOfSortedRange(const InputGroups& groups, Range places);

}  // namespace tessera
