#include "model/quant_inputs.h"

#include <algorithm>
#include <numeric>

#include "common/align.h"
#include "common/check.h"
#include "common/quant_format.h"

namespace tessera {
namespace {

constexpr int64_t kStep = kQuantUnitK;

int64_t GroupSize(const InputGroups& groups) {
  return groups.group > 0 ? groups.group : std::max<int64_t>(groups.total, 1);
}

// Drops group_of_step where it says no more than j / group.
void DropPlainSteps(QuantInputs& inputs) {
  for (size_t step = 0; step < inputs.group_of_step.size(); ++step) {
    if (inputs.group_of_step[step] != static_cast<int64_t>(step) * kStep / inputs.group) return;
  }
  inputs.group_of_step.clear();
}

QuantInputs InOrder(const InputGroups& groups, Range range) {
  const int64_t group = GroupSize(groups);
  QuantInputs inputs = {.k = range.size(), .first = range.begin, .group = group};
  if (range.size() == 0) return inputs;
  const int64_t first_group = range.begin / group, end_group = CeilDiv(range.end, group);
  inputs.groups.resize(static_cast<size_t>(end_group - first_group));
  std::iota(inputs.groups.begin(), inputs.groups.end(), static_cast<int32_t>(first_group));
  for (int64_t k = range.begin; k < range.end; k += kStep)
    inputs.group_of_step.push_back(static_cast<uint16_t>(k / group - first_group));
  DropPlainSteps(inputs);
  return inputs;
}

// `members` are sorted by group.
QuantInputs Sorted(const InputGroups& groups, absl::Span<const int32_t> members) {
  QuantInputs inputs = {.group = GroupSize(groups)};
  for (size_t i = 0; i < members.size();) {
    const int32_t of = groups.g_idx[static_cast<size_t>(members[i])];
    const auto local = static_cast<uint16_t>(inputs.groups.size());
    inputs.groups.push_back(of);
    for (; i < members.size() && groups.g_idx[static_cast<size_t>(members[i])] == of; ++i)
      inputs.source.push_back(members[i]);
    inputs.source.resize(
        static_cast<size_t>(AlignUp(static_cast<int64_t>(inputs.source.size()), kStep)), -1);
    inputs.group_of_step.resize(inputs.source.size() / kStep, local);
  }
  inputs.k = static_cast<int64_t>(inputs.source.size());
  DropPlainSteps(inputs);
  return inputs;
}

std::vector<int32_t> SortedByGroup(const InputGroups& groups, Range range) {
  std::vector<int32_t> members(static_cast<size_t>(range.size()));
  std::iota(members.begin(), members.end(), static_cast<int32_t>(range.begin));
  std::stable_sort(members.begin(), members.end(), [&](int32_t a, int32_t b) {
    return groups.g_idx[static_cast<size_t>(a)] < groups.g_idx[static_cast<size_t>(b)];
  });
  return members;
}

}  // namespace

QuantInputs InputsOfRange(const InputGroups& groups, Range range) {
  TESSERA_CHECK(range.begin >= 0 && range.begin <= range.end && range.end <= groups.total &&
                    range.begin % kStep == 0 && range.end % kStep == 0,
                "inputs ", range.begin, " to ", range.end, " of ", groups.total);
  if (groups.g_idx.empty()) return InOrder(groups, range);
  return Sorted(groups, SortedByGroup(groups, range));
}

QuantInputs InputsOfSortedRange(const InputGroups& groups, Range places) {
  const std::vector<int32_t> all = SortedByGroup(groups, {0, groups.total});
  return Sorted(groups, absl::MakeConstSpan(all).subspan(static_cast<size_t>(places.begin),
                                                         static_cast<size_t>(places.size())));
}

}  // namespace tessera
