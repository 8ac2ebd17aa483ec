#include "worker/step_plan.h"

#include <vector>

#include "kernels/step/prepare_step.h"
#include "planner/memory_layout.h"
#include "planner/step_capacity.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr EngineLimits kLimits = {
    .context = 64, .max_sequences = 4, .max_step_tokens = 16, .block_size = 16};

StepDraft TwoSequences() {
  StepDraft draft;
  draft.number = 9;
  draft.sequences.push_back(
      {.slot = 2, .tokens = {-1}, .first_position = 7, .sample = true, .draw_index = 3});
  draft.sequences.push_back({.slot = 0, .tokens = {11, 12, 13}, .targets = {12, 13, -1}});
  draft.block_patches = {0, 0, 5};
  draft.slot_resets.push_back({.slot = 0});
  return draft;
}

TEST(StepPlan, ArraysReadBackAsDrafted) {
  std::vector<uint8_t> bytes;
  EncodePlan(TwoSequences(), bytes);
  ASSERT_OK_AND_ASSIGN(const PlanView plan, PlanView::Parse(bytes, CapacityOf(kLimits)));
  const PlanHeader& h = plan.header();
  const PlanOffsets& o = plan.offsets();
  EXPECT_EQ(h.number, 9);
  EXPECT_EQ(h.decode_sequences, 1);
  EXPECT_EQ(h.max_query, 3);
  EXPECT_EQ(h.max_context, 8);
  EXPECT_THAT(plan.array(o.token_source, h.tokens), ElementsAre(-1, 11, 12, 13));
  EXPECT_THAT(plan.array(o.token_seq, h.tokens), ElementsAre(0, 1, 1, 1));
  EXPECT_THAT(plan.array(o.positions, h.tokens), ElementsAre(7, 0, 1, 2));
  EXPECT_THAT(plan.array(o.q_start, h.sequences + 1), ElementsAre(0, 1, 4));
  EXPECT_THAT(plan.array(o.context, h.sequences), ElementsAre(8, 3));
  EXPECT_THAT(plan.array(o.sample_row, h.sequences), ElementsAre(0, -1));
  EXPECT_THAT(plan.array(o.draw_index, h.sequences), ElementsAre(3, -1));
  EXPECT_THAT(plan.array(o.target_row, h.targets), ElementsAre(1, 2));
  EXPECT_THAT(plan.array(o.target_id, h.targets), ElementsAre(12, 13));
  EXPECT_EQ(plan.slot_resets().size(), 1u);
}

TEST(StepPlan, GraphStepsArePaddedToTheirBucket) {
  StepDraft draft = TwoSequences();
  draft.sequences.pop_back();
  draft.graph_rows = 4;
  std::vector<uint8_t> bytes;
  EncodePlan(draft, bytes);
  ASSERT_OK_AND_ASSIGN(const PlanView plan, PlanView::Parse(bytes, CapacityOf(kLimits)));
  const PlanOffsets& o = plan.offsets();
  constexpr int32_t kPad = PrepareStepArgs::kPaddingToken;
  EXPECT_THAT(plan.array(o.token_source, 4), ElementsAre(-1, kPad, kPad, kPad));
  EXPECT_THAT(plan.array(o.seq_slot, 4), ElementsAre(2, -1, -1, -1));
  EXPECT_THAT(plan.array(o.q_start, 5), ElementsAre(0, 1, 2, 3, 4));
}

TEST(StepPlan, PerSequenceArraysOfAGraphStepDoNotMoveWithItsPatches) {
  PlanHeader few, many;
  few.tokens = many.tokens = few.sequences = many.sequences = 8;
  many.block_patches = 8;
  many.slot_resets = 3;
  EXPECT_EQ(OffsetsOf(few).draw_index, OffsetsOf(many).draw_index);
}

TEST(StepPlan, LargestPlanIsWithinTheLayoutsBytes) {
  for (const int64_t sequences : {1, 4, 64}) {
    EngineLimits limits = kLimits;
    limits.max_sequences = sequences;
    limits.max_step_tokens = 64 + sequences;
    const PlanCapacity c = CapacityOf(limits);
    PlanHeader h;
    h.tokens = static_cast<int32_t>(c.tokens);
    h.sequences = static_cast<int32_t>(c.sequences);
    h.block_patches = static_cast<int32_t>(c.block_patches);
    h.slot_resets = static_cast<int32_t>(c.slot_resets);
    h.targets = static_cast<int32_t>(c.targets);
    EXPECT_LE(OffsetsOf(h).bytes, MaxPlanBytes(limits));
  }
}

TEST(StepPlan, TruncatedPlanIsDataLoss) {
  std::vector<uint8_t> bytes;
  EncodePlan(TwoSequences(), bytes);
  bytes.resize(bytes.size() - 16);
  EXPECT_THAT(PlanView::Parse(bytes, CapacityOf(kLimits)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("step plan 9")));
  bytes.resize(8);
  EXPECT_THAT(PlanView::Parse(bytes, CapacityOf(kLimits)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("8 bytes")));
}

TEST(StepPlan, CountsPastTheCapacityAreDataLoss) {
  std::vector<uint8_t> bytes;
  EncodePlan(TwoSequences(), bytes);
  reinterpret_cast<PlanHeader*>(bytes.data())->tokens = 17;
  EXPECT_THAT(PlanView::Parse(bytes, CapacityOf(kLimits)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("tokens 17")));
}

}  // namespace
}  // namespace tessera
