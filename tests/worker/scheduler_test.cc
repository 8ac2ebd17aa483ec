#include "worker/scheduler.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kBlock = 16;

SchedulerOptions Options(int64_t blocks, int64_t sequences = 4, int64_t step_tokens = 32) {
  return {.limits = {.context = 256,
                     .max_sequences = sequences,
                     .max_step_tokens = step_tokens,
                     .block_size = kBlock},
          .kv_blocks = blocks,
          .now_unix_us = [] { return int64_t{7}; }};
}

SequenceRequest Request(uint64_t id, int64_t prompt, int64_t max_tokens) {
  SequenceRequest r;
  r.id = id;
  r.prompt.resize(static_cast<size_t>(prompt));
  std::iota(r.prompt.begin(), r.prompt.end(), 100);
  r.params.prompt_len = static_cast<int32_t>(prompt);
  r.max_tokens = max_tokens;
  return r;
}

// A device whose model answers every sampled row with a token that tells sequence slot and position
// apart.
class FakeDevice {
 public:
  explicit FakeDevice(Scheduler& scheduler) : scheduler_(scheduler) {}

  // Issues one step if it can; false: nothing to do.
  bool Issue() {
    std::optional<StepDraft> draft = scheduler_.NextStep();
    if (!draft.has_value()) return false;
    steps.push_back(std::move(*draft));
    return true;
  }

  // Hands the oldest uncollected step's results back.
  void Collect() {
    const StepDraft& step = steps[collected_++];
    std::vector<int32_t> ids;
    std::vector<float> targets;
    for (const PlannedSequence& s : step.sequences) {
      ids.push_back(s.sample ? next_id++ : -1);
      for (const int32_t t : s.targets) {
        if (t >= 0) targets.push_back(-static_cast<float>(t));
      }
    }
    StepResult result;
    result.number = step.number;
    result.ids = ids;
    result.prompt_logprobs = targets;
    std::vector<SequenceUpdate> updates;
    scheduler_.Finish(result, updates);
    for (SequenceUpdate& u : updates) {
      for (const SampledToken& t : u.tokens) tokens[u.id].push_back(t.id);
      if (!u.prompt_logprobs.empty()) prompt_logprobs[u.id] = u.prompt_logprobs;
      if (u.finish != FinishKind::kNone) finished[u.id] = u.finish;
    }
  }

  // Two steps deep until nothing is left.
  void RunAll(int64_t depth = 2) {
    while (!scheduler_.idle()) {
      if (scheduler_.steps_in_flight() < depth && Issue()) continue;
      ASSERT_GT(scheduler_.steps_in_flight(), 0) << "stuck";
      Collect();
    }
  }

  std::vector<StepDraft> steps;
  std::map<uint64_t, std::vector<int32_t>> tokens;
  std::map<uint64_t, std::vector<float>> prompt_logprobs;
  std::map<uint64_t, FinishKind> finished;
  int32_t next_id = 1000;

 private:
  Scheduler& scheduler_;
  size_t collected_ = 0;
};

TEST(Scheduler, PrefillsInChunksThenDecodesFromTheDevicesLastSample) {
  Scheduler scheduler(Options(16));
  ASSERT_OK(scheduler.Add(Request(1, 40, 3)));
  FakeDevice device(scheduler);
  device.RunAll();
  ASSERT_EQ(device.steps.size(), 4u);
  EXPECT_EQ(device.steps[0].sequences[0].tokens.size(), 32u);
  EXPECT_FALSE(device.steps[0].sequences[0].sample);
  EXPECT_EQ(device.steps[1].sequences[0].tokens.size(), 8u);
  EXPECT_TRUE(device.steps[1].sequences[0].sample);
  EXPECT_THAT(device.steps[2].sequences[0].tokens, ElementsAre(-1));  // row 0 of the last sample
  EXPECT_EQ(device.steps[3].sequences[0].first_position, 41);
  EXPECT_EQ(device.tokens[1].size(), 3u);
  EXPECT_EQ(device.finished[1], FinishKind::kLength);
}

TEST(Scheduler, DecodingSequencesComeBeforePrefill) {
  Scheduler scheduler(Options(32));
  ASSERT_OK(scheduler.Add(Request(1, 4, 8)));
  FakeDevice device(scheduler);
  ASSERT_TRUE(device.Issue());
  ASSERT_OK(scheduler.Add(Request(2, 50, 2)));
  ASSERT_TRUE(device.Issue());
  const StepDraft& mixed = device.steps[1];
  ASSERT_EQ(mixed.sequences.size(), 2u);
  EXPECT_EQ(mixed.sequences[0].tokens.size(), 1u);
  EXPECT_EQ(mixed.sequences[1].tokens.size(), 31u);  // what is left of 32
}

TEST(Scheduler, StopIdEndsTheSequenceAndItsSurplusStepIsDropped) {
  Scheduler scheduler(Options(16));
  SequenceRequest request = Request(1, 4, 100);
  request.stop_ids = {1002};
  ASSERT_OK(scheduler.Add(std::move(request)));
  FakeDevice device(scheduler);
  device.RunAll();
  EXPECT_THAT(device.tokens[1], ElementsAre(1000, 1001, 1002));
  EXPECT_EQ(device.finished[1], FinishKind::kStop);
  EXPECT_EQ(device.steps.size(), 4u);  // one step was under way when the stop id arrived
  EXPECT_EQ(scheduler.free_blocks(), 16);
}

TEST(Scheduler, NeverMoreThanMaxSequencesHoldSlots) {
  Scheduler scheduler(Options(64, /*sequences=*/2));
  for (uint64_t id = 1; id <= 5; ++id) ASSERT_OK(scheduler.Add(Request(id, 4, 4)));
  FakeDevice device(scheduler);
  while (!scheduler.idle()) {
    if (scheduler.steps_in_flight() < 2 && device.Issue()) {
      EXPECT_LE(scheduler.running(), 2);
      continue;
    }
    device.Collect();
  }
  for (uint64_t id = 1; id <= 5; ++id) EXPECT_EQ(device.tokens[id].size(), 4u) << id;
}

TEST(Scheduler, YoungestGivesItsBlocksToAnOlderAndStillFinishes) {
  // 6 blocks; two sequences that each grow to 4 blocks (64 positions).
  Scheduler scheduler(Options(6));
  ASSERT_OK(scheduler.Add(Request(1, 30, 34)));
  ASSERT_OK(scheduler.Add(Request(2, 30, 34)));
  FakeDevice device(scheduler);
  device.RunAll();
  EXPECT_EQ(device.tokens[1].size(), 34u);
  EXPECT_EQ(device.tokens[2].size(), 34u);
  EXPECT_EQ(scheduler.free_blocks(), 6);
  // The second one's slot was set up twice: once at first, once after it had given way.
  int64_t resets = 0;
  for (const StepDraft& step : device.steps)
    resets += static_cast<int64_t>(step.slot_resets.size());
  EXPECT_EQ(resets, 3);
}

TEST(Scheduler, RecomputedSequenceGoesOnWithTheNextDrawAndItsKnownTokens) {
  Scheduler scheduler(Options(6));
  ASSERT_OK(scheduler.Add(Request(1, 30, 34)));
  ASSERT_OK(scheduler.Add(Request(2, 30, 34)));
  FakeDevice device(scheduler);
  device.RunAll();
  // Both sequences draw numbers 0 to 33 once each, however often the younger one started over.
  std::map<int32_t, int> draws;
  for (const StepDraft& step : device.steps) {
    for (const PlannedSequence& s : step.sequences) {
      if (s.sample) ++draws[s.draw_index];
    }
  }
  EXPECT_EQ(draws.size(), 34u);
  for (const auto& [draw, count] : draws) EXPECT_EQ(count, 2) << "draw " << draw;
}

TEST(Scheduler, BlocksAreNeverHeldByTwoSequences) {
  Scheduler scheduler(Options(10, 4, 24));
  for (uint64_t id = 1; id <= 8; ++id)
    ASSERT_OK(scheduler.Add(Request(id, 5 + static_cast<int64_t>(id) * 7 % 40, 20)));
  FakeDevice device(scheduler);
  std::map<std::pair<int32_t, int32_t>, int32_t> table;  // (slot, index) -> block
  while (!scheduler.idle()) {
    if (scheduler.steps_in_flight() < 2 && device.Issue()) {
      const StepDraft& step = device.steps.back();
      for (size_t i = 0; i < step.block_patches.size(); i += 3)
        table[{step.block_patches[i], step.block_patches[i + 1]}] = step.block_patches[i + 2];
      std::set<int32_t> used;
      for (const PlannedSequence& s : step.sequences) {
        const auto last = s.first_position + static_cast<int32_t>(s.tokens.size()) - 1;
        for (int32_t b = 0; b <= last / kBlock; ++b) {
          const auto place = table.find({s.slot, b});
          ASSERT_NE(place, table.end());
          EXPECT_TRUE(used.insert(place->second).second) << "block " << place->second;
        }
      }
      continue;
    }
    device.Collect();
  }
  EXPECT_EQ(device.finished.size(), 8u);
}

TEST(Scheduler, CancelFreesBlocksAtOnceWhereverTheSequenceIs) {
  Scheduler scheduler(Options(16, 1));
  ASSERT_OK(scheduler.Add(Request(1, 20, 10)));
  ASSERT_OK(scheduler.Add(Request(2, 20, 10)));  // waits for the only slot
  FakeDevice device(scheduler);
  ASSERT_TRUE(device.Issue());
  std::vector<SequenceUpdate> updates;
  EXPECT_TRUE(scheduler.Cancel(2, updates));
  EXPECT_TRUE(scheduler.Cancel(1, updates));
  ASSERT_EQ(updates.size(), 2u);
  EXPECT_EQ(updates[0].finish, FinishKind::kCancelled);
  EXPECT_EQ(scheduler.free_blocks(), 16);
  EXPECT_FALSE(scheduler.Cancel(1, updates));
  device.Collect();
  EXPECT_TRUE(scheduler.idle());
  EXPECT_TRUE(device.tokens.empty());
}

TEST(Scheduler, PromptLogprobsComeOnceBeforeTheFirstTokenAlsoInChunks) {
  Scheduler scheduler(Options(16));
  SequenceRequest request = Request(1, 40, 2);
  request.prompt_logprobs = true;
  ASSERT_OK(scheduler.Add(std::move(request)));
  FakeDevice device(scheduler);
  device.RunAll();
  ASSERT_EQ(device.prompt_logprobs[1].size(), 39u);
  EXPECT_EQ(device.prompt_logprobs[1][0], -101.f);   // of prompt token 1
  EXPECT_EQ(device.prompt_logprobs[1][38], -139.f);  // of the last
}

TEST(Scheduler, DecodeStepsTakeTheSmallestGraphThatHoldsThem) {
  SchedulerOptions options = Options(32);
  options.graph_rows = {1, 2, 4};
  Scheduler scheduler(options);
  for (uint64_t id = 1; id <= 3; ++id) ASSERT_OK(scheduler.Add(Request(id, 2, 4)));
  FakeDevice device(scheduler);
  ASSERT_TRUE(device.Issue());
  EXPECT_EQ(device.steps[0].graph_rows, 0);  // prefill
  ASSERT_TRUE(device.Issue());
  EXPECT_EQ(device.steps[1].graph_rows, 4);
}

TEST(Scheduler, LanesTakeTurnsAndShareSequencesEvenly) {
  SchedulerOptions options = Options(32);
  options.lanes = 2;
  Scheduler scheduler(options);
  for (uint64_t id = 1; id <= 4; ++id) ASSERT_OK(scheduler.Add(Request(id, 4, 6)));
  FakeDevice device(scheduler);
  device.RunAll(/*depth=*/3);
  std::map<int32_t, std::set<int32_t>> slots_of_lane;
  for (const StepDraft& step : device.steps) {
    for (const PlannedSequence& s : step.sequences) slots_of_lane[step.lane].insert(s.slot);
  }
  EXPECT_EQ(slots_of_lane[0].size(), 2u);
  EXPECT_EQ(slots_of_lane[1].size(), 2u);
  for (uint64_t id = 1; id <= 4; ++id) EXPECT_EQ(device.tokens[id].size(), 6u);
}

TEST(Scheduler, RefusesWhatTheWholeCacheCannotHold) {
  Scheduler scheduler(Options(2));
  EXPECT_THAT(scheduler.Add(Request(1, 30, 10)),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("need 3 KV blocks")));
  EXPECT_OK(scheduler.Add(Request(2, 30, 3)));  // 32 positions: the last token is never fed back
}

TEST(Scheduler, RefusesASequenceNumberInUse) {
  Scheduler scheduler(Options(8));
  ASSERT_OK(scheduler.Add(Request(1, 4, 4)));
  EXPECT_THAT(scheduler.Add(Request(1, 4, 4)),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("sequence 1")));
}

}  // namespace
}  // namespace tessera
