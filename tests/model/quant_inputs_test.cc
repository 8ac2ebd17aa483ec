#include "model/quant_inputs.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// g_idx of `total` inputs in groups of `group`, shuffled by a fixed stride prime to the total.
std::vector<int32_t> Shuffled(int64_t total, int64_t group, int64_t stride) {
  std::vector<int32_t> groups(static_cast<size_t>(total));
  for (int64_t rank = 0; rank < total; ++rank)
    groups[static_cast<size_t>(rank * stride % total)] = static_cast<int32_t>(rank / group);
  return groups;
}

TEST(QuantInputs, WholeGroupsInOrderNeedNoLists) {
  const QuantInputs inputs = InputsOfRange({.total = 512, .group = 128}, {128, 384});
  EXPECT_TRUE(inputs.in_order());
  EXPECT_EQ(inputs.first, 128);
  EXPECT_EQ(inputs.k, 256);
  EXPECT_THAT(inputs.groups, ElementsAre(1, 2));
  EXPECT_THAT(inputs.group_of_step, IsEmpty());
}

TEST(QuantInputs, ARangeFromTheMiddleOfAGroupListsTheGroupOfEachStep) {
  const QuantInputs inputs = InputsOfRange({.total = 256, .group = 128}, {96, 160});
  EXPECT_THAT(inputs.groups, ElementsAre(0, 1));
  EXPECT_THAT(inputs.group_of_step, ElementsAre(0, 0, 1, 1));
}

TEST(QuantInputs, OneGroupOfAColumnIsOneGroupOfEachRange) {
  const QuantInputs inputs = InputsOfRange({.total = 256, .group = -1}, {128, 256});
  EXPECT_THAT(inputs.groups, ElementsAre(0));
  EXPECT_THAT(inputs.group_of_step, IsEmpty());
  EXPECT_GE(inputs.group, inputs.k);
}

TEST(QuantInputs, AWholeShuffledMatrixSortsIntoPlainGroups) {
  const std::vector<int32_t> g_idx = Shuffled(160, 32, 37);
  const QuantInputs inputs = InputsOfRange({.total = 160, .group = 32, .g_idx = g_idx}, {0, 160});
  EXPECT_EQ(inputs.k, 160);
  EXPECT_THAT(inputs.group_of_step, IsEmpty());
  for (size_t j = 0; j < 160; ++j)
    EXPECT_EQ(g_idx[static_cast<size_t>(inputs.source[j])], static_cast<int32_t>(j / 32));
}

// Properties of any split of o_proj: each input of the range once, runs of one group, whole steps.
TEST(QuantInputs, RaggedRunsOfARangeArePaddedToSteps) {
  const std::vector<int32_t> g_idx = Shuffled(256, 32, 75);
  const QuantInputs inputs = InputsOfRange({.total = 256, .group = 32, .g_idx = g_idx}, {64, 192});
  EXPECT_EQ(inputs.k % 16, 0);
  ASSERT_EQ(static_cast<int64_t>(inputs.group_of_step.size()), inputs.k / 16);
  std::vector<int32_t> seen;
  for (size_t j = 0; j < inputs.source.size(); ++j) {
    const int32_t input = inputs.source[j];
    if (input < 0) continue;
    seen.push_back(input);
    EXPECT_EQ(g_idx[static_cast<size_t>(input)], inputs.groups[inputs.group_of_step[j / 16]]);
  }
  std::sort(seen.begin(), seen.end());
  std::vector<int32_t> range(128);
  std::iota(range.begin(), range.end(), 64);
  EXPECT_EQ(seen, range);
}

TEST(QuantInputs, SortedRangesOfAllRanksCoverEveryInputOnce) {
  const std::vector<int32_t> g_idx = Shuffled(416, 32, 135);
  const InputGroups groups = {.total = 416, .group = 32, .g_idx = g_idx};
  std::vector<int32_t> seen;
  for (const Range places : {Range{0, 224}, Range{224, 416}}) {
    const QuantInputs inputs = InputsOfSortedRange(groups, places);
    EXPECT_EQ(inputs.k, places.size());
    EXPECT_THAT(inputs.group_of_step, IsEmpty());
    EXPECT_EQ(inputs.groups.front(), places.begin / 32);
    seen.insert(seen.end(), inputs.source.begin(), inputs.source.end());
  }
  std::sort(seen.begin(), seen.end());
  std::vector<int32_t> all(416);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(seen, all);
}

// No quantizer writes such groups, but a file may.
TEST(QuantInputs, GroupsOfAnySizeArePadded) {
  std::vector<int32_t> g_idx(64, 1);
  g_idx[5] = 0;
  const QuantInputs inputs = InputsOfRange({.total = 64, .group = 32, .g_idx = g_idx}, {0, 64});
  EXPECT_EQ(inputs.k, 16 + 64);
  EXPECT_THAT(inputs.group_of_step, ElementsAre(0, 1, 1, 1, 1));
  EXPECT_EQ(inputs.source[0], 5);
  EXPECT_EQ(inputs.source[1], -1);
  EXPECT_EQ(inputs.source[79], -1);
}

}  // namespace
}  // namespace tessera
