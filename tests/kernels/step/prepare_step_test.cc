#include "kernels/step/prepare_step.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kPad = PrepareStepArgs::kPaddingToken;

// Three slots of four blocks of 16 tokens, a vocabulary of 100; sequence 0 is in slot 2, sequence 1
// in slot 0.
class PrepareStepTest : public CpuOpTest {
 protected:
  void Run(const std::vector<int32_t>& source, const std::vector<int32_t>& seqs,
           const std::vector<int32_t>& positions, const std::vector<int32_t>& patches = {}) {
    token_ids.assign(source.size(), 77);
    kv_index.assign(source.size(), 77);
    const PrepareStepArgs args = {.token_source = source.data(),
                                  .token_seq = seqs.data(),
                                  .positions = positions.data(),
                                  .seq_slot = seq_slot.data(),
                                  .block_patches = patches.data(),
                                  .last_ids = last_ids.data(),
                                  .block_table = table.data(),
                                  .token_ids = token_ids.data(),
                                  .kv_index = kv_index.data(),
                                  .t = static_cast<int64_t>(source.size()),
                                  .s = 3,
                                  .patches = static_cast<int64_t>(patches.size() / 3),
                                  .last_rows = 3,
                                  .slots = 3,
                                  .max_blocks = 4,
                                  .block_size = 16,
                                  .vocab = 100};
    EXPECT_OK(PrepareStepCpu(args, cpu().stream()));
  }
  std::vector<int32_t> seq_slot = {2, 0, 5};
  std::vector<int32_t> last_ids = {11, 100, 33};
  std::vector<int32_t> table = std::vector<int32_t>(12, -1);
  std::vector<int32_t> token_ids;
  std::vector<int64_t> kv_index;
};

TEST_F(PrepareStepTest, IdsComeFromThePlanOrFromTheLastSample) {
  Run({5, -1, -3, 99}, {0, 0, 0, 0}, {0, 1, 2, 3});
  EXPECT_THAT(token_ids, ElementsAre(5, 11, 33, 99));
}

TEST_F(PrepareStepTest, PositionsBecomeCachePlaces) {
  table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  Run({1, 1, 1, 1}, {0, 0, 1, 1}, {0, 17, 15, 63});
  EXPECT_THAT(kv_index, ElementsAre(8 * 16, 9 * 16 + 1, 15, 3 * 16 + 15));
}

TEST_F(PrepareStepTest, PatchesComeBeforeTokens) {
  Run({1, 1}, {0, 1}, {20, 0}, {2, 1, 1000, 0, 0, 2000});
  EXPECT_THAT(kv_index, ElementsAre(1000 * 16 + 4, 2000 * 16));
  EXPECT_EQ(table[9], 1000);
}

TEST_F(PrepareStepTest, ALargeBlockNumberDoesNotOverflow) {
  Run({1}, {0}, {3}, {2, 0, 2000000000});
  EXPECT_EQ(kv_index[0], int64_t{2000000000} * 16 + 3);
}

TEST_F(PrepareStepTest, PaddingGivesMinusOneTwice) {
  table.assign(12, 3);
  Run({kPad}, {0}, {0});
  EXPECT_THAT(token_ids, ElementsAre(-1));
  EXPECT_THAT(kv_index, ElementsAre(-1));
}

TEST_F(PrepareStepTest, IdsOutsideTheVocabularyGiveMinusOne) {
  table.assign(12, 3);
  Run({100, 1 << 30, -2, -4, -1000000}, {0, 0, 0, 0, 0}, {0, 0, 0, 0, 0});
  EXPECT_THAT(token_ids, ElementsAre(-1, -1, -1, -1, -1));
  EXPECT_THAT(kv_index, ElementsAre(48, 48, 48, 48, 48));
}

TEST_F(PrepareStepTest, PlacesOutsideTheirTablesGiveMinusOne) {
  table.assign(12, 3);
  table[0] = -1;
  Run({1, 1, 1, 1, 1, 1}, {0, 0, -1, 3, 2, 1}, {64, -1, 0, 0, 0, 0});
  EXPECT_THAT(kv_index, ElementsAre(-1, -1, -1, -1, -1, -1));
}

TEST_F(PrepareStepTest, PatchesOutsideTheTableAreDropped) {
  Run({}, {}, {}, {-1, 0, 5, 3, 0, 5, 0, -1, 5, 0, 4, 5});
  EXPECT_EQ(table, std::vector<int32_t>(12, -1));
}

TEST_F(PrepareStepTest, BadSizesAreRefused) {
  const auto status = [&](auto change) {
    PrepareStepArgs args;
    args.block_size = 16;
    change(args);
    return PrepareStepCpu(args, cpu().stream());
  };
  const auto refused = StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("prepare_step: t="));
  EXPECT_OK(status([](PrepareStepArgs&) {}));
  EXPECT_THAT(status([](PrepareStepArgs& a) { a.t = -1; }), refused);
  EXPECT_THAT(status([](PrepareStepArgs& a) { a.patches = -1; }), refused);
  EXPECT_THAT(status([](PrepareStepArgs& a) { a.block_size = 0; }), refused);
}

}  // namespace
}  // namespace tessera::testing
