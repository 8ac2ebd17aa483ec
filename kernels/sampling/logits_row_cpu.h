// One row of a LogitsView on the host.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/sampling/sample.h"
#include "kernels/sampling/sample_math.h"

namespace tessera {

// Row `row`, one clean logit per id.
inline std::vector<float> CleanRow(const LogitsView& view, int64_t row) {
  std::vector<float> values(static_cast<size_t>(view.vocab));
  for (int64_t first = 0; first < view.vocab; first += view.width) {  // a shard at a time
    const float* shard = view.data + LogitOffset(view, row, first);
    for (int64_t i = 0; i < view.width && first + i < view.vocab; ++i)
      values[static_cast<size_t>(first + i)] = CleanLogit(shard[i]);
  }
  return values;
}

}  // namespace tessera
