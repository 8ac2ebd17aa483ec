// Plans and refusals in words.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "planner/search.h"

namespace tessera {

// "135.42 GiB (145,404,657,664 bytes)".
std::string FormatBytes(int64_t bytes);

// Bytes of a rank per component, in the order of BufferKind and "reserve" last; components of no
// bytes are left out.
std::vector<std::pair<std::string, int64_t>> BytesByComponent(const RankPlan& rank);

// Why `ranks`, the best split of `shape`, does not fit: its heading, then a line with its
// components for each rank that needs more than UsableBytes(); ranks alike share one, and at most 8
// are shown.
std::string DescribeMisfit(const PlanInput& input, const ParallelShape& shape,
                           const std::vector<RankPlan>& ranks);

}  // namespace tessera
