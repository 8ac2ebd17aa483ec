#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/sampling/sample.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CountTokensTest : public CpuOpTest {
 protected:
  // Two slots, a vocabulary of 4; sequence 0 is in slot 1, sequence 1 in slot 0. Slot 1 has
  // penalties and a prompt of 2 tokens.
  std::vector<uint16_t> Run(std::vector<int32_t> ids, std::vector<int32_t> seqs,
                            std::vector<int32_t> positions, std::vector<uint16_t> table) {
    const std::vector<int32_t> seq_slot = {1, 0, 9, -1};
    const std::vector<SamplingParams> params = {{}, {.prompt_len = 2, .penalties = 1}};
    const CountTokensArgs args = {.token_ids = ids.data(),
                                  .token_seq = seqs.data(),
                                  .positions = positions.data(),
                                  .seq_slot = seq_slot.data(),
                                  .params = params.data(),
                                  .seen = {.table = table.data(), .slots = 2, .vocab = 4},
                                  .t = static_cast<int64_t>(ids.size()),
                                  .s = static_cast<int64_t>(seq_slot.size())};
    EXPECT_OK(CountTokensCpu(args, cpu().stream()));
    return table;
  }
  const std::vector<uint16_t> empty_ = std::vector<uint16_t>(8, 0);
};

TEST_F(CountTokensTest, PromptTokensAreMarkedOutputTokensCounted) {
  EXPECT_THAT(Run({3, 0, 3, 3, 2}, {0, 0, 0, 0, 0}, {0, 1, 2, 3, 4}, empty_),
              ElementsAre(0, 0, 0, 0, 0x8000, 0, 1, 0x8002));
}

TEST_F(CountTokensTest, SlotsWithoutPenaltiesStayUntouched) {
  EXPECT_EQ(Run({1, 2}, {1, 1}, {0, 5}, empty_), empty_);
}

TEST_F(CountTokensTest, PaddingAndIndicesOutsideTheTableArePassedOver) {
  EXPECT_EQ(Run({-1, 4, 1 << 30, 1, 1, 1}, {0, 0, 0, -1, 2, 3}, {5, 5, 5, 5, 5, 5}, empty_),
            empty_);
}

// seq_slot has 4 entries; what lies behind them is not read (ASan would tell).
TEST_F(CountTokensTest, SequencesPastTheLastArePassedOver) {
  EXPECT_EQ(Run({1, 1, 1}, {4, 5, 1 << 30}, {5, 5, 5}, empty_), empty_);
}

TEST_F(CountTokensTest, CountsSaturate) {
  auto table = empty_;
  table[5] = 0x7ffe;
  table[6] = 0xffff;
  const auto out = Run({1, 1, 1, 2}, {0, 0, 0, 0}, {2, 3, 4, 5}, table);
  EXPECT_EQ(out[5], 0x7fff);
  EXPECT_EQ(out[6], 0xffff);
}

TEST_F(CountTokensTest, ANullTableDoesNothing) {
  CountTokensArgs args;
  args.t = 5;
  EXPECT_OK(CountTokensCpu(args, cpu().stream()));
}

TEST_F(CountTokensTest, NegativeSizesAreRefused) {
  CountTokensArgs args;
  args.t = -1;
  EXPECT_THAT(CountTokensCpu(args, cpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("t=-1")));
  args.t = 0;
  args.s = -1;
  EXPECT_THAT(CountTokensCpu(args, cpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("s=-1")));
}

}  // namespace
}  // namespace tessera::testing
