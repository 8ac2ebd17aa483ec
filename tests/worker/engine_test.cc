#include "worker/engine.h"

#include <atomic>
#include <map>
#include <vector>

#include "kernels/ops.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/local_cluster.h"

namespace tessera::testing {
namespace {

const char kModel[] = TESSERA_TEST_DATA "/tiny-qwen2";

std::vector<SequenceRequest> Mixed() {
  std::vector<SequenceRequest> requests;
  for (uint64_t id = 0; id < 6; ++id) {
    std::vector<int32_t> prompt;
    for (int32_t i = 0; i < 5 + static_cast<int32_t>(id) * 17; ++i)
      prompt.push_back((i * 37 + static_cast<int32_t>(id) * 101) % 4000);
    requests.push_back(GreedyRequest(id, prompt, 12));
    SamplingParams& p = requests.back().params;
    if (id % 2 == 1) {
      p.temperature = 0.8f;
      p.top_k = 50;
      p.top_p = 0.95f;
      p.repetition_penalty = 1.2f;
      p.presence_penalty = 0.1f;
      p.penalties = 1;
      p.seed_low = static_cast<uint32_t>(id);
    }
  }
  return requests;
}

void ExpectSameTokens(const std::map<uint64_t, LocalResult>& a,
                      const std::map<uint64_t, LocalResult>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [id, result] : a) EXPECT_EQ(result.ids(), b.at(id).ids()) << "request " << id;
}

TEST(Engine, ASequenceGetsTheSameTokensAloneAndInABatch) {
  ASSERT_OK_AND_ASSIGN(const auto together, RunLocally({.model_dir = kModel}, Mixed()));
  for (const SequenceRequest& request : Mixed()) {
    ASSERT_OK_AND_ASSIGN(const auto alone, RunLocally({.model_dir = kModel}, {request}));
    EXPECT_EQ(alone.at(request.id).ids(), together.at(request.id).ids());
  }
}

TEST(Engine, PreemptionDoesNotChangeTokens) {
  ASSERT_OK_AND_ASSIGN(const auto roomy, RunLocally({.model_dir = kModel}, Mixed()));
  // The longest sequence needs 7 blocks of 16; with 9 the others are pushed out again and again.
  ASSERT_OK_AND_ASSIGN(const auto tight,
                       RunLocally({.model_dir = kModel, .kv_blocks = 9}, Mixed()));
  ExpectSameTokens(roomy, tight);
}

TEST(Engine, ThreadsAndStepSizeDoNotChangeTokens) {
  ASSERT_OK_AND_ASSIGN(const auto one, RunLocally({.model_dir = kModel}, Mixed()));
  ASSERT_OK_AND_ASSIGN(
      const auto two,
      RunLocally({.model_dir = kModel, .max_step_tokens = 16, .threads = 2}, Mixed()));
  ExpectSameTokens(one, two);
}

TEST(Engine, DummyWeightsAreTheSameModelUnderAnySharding) {
  LocalClusterOptions options = {.model_dir = kModel, .dummy = true};
  ASSERT_OK_AND_ASSIGN(const auto whole, RunLocally(options, {GreedyRequest(1, {1, 2, 3}, 4)}));
  options.tp = 2;
  options.pp = 2;
  ASSERT_OK_AND_ASSIGN(const auto sharded, RunLocally(options, {GreedyRequest(1, {1, 2, 3}, 4)}));
  EXPECT_EQ(whole.at(1).ids(), sharded.at(1).ids());
  EXPECT_NEAR(whole.at(1).tokens[0].logprob, sharded.at(1).tokens[0].logprob, 1e-4f);
}

std::atomic<int> longest_sequence = 0;

absl::Status NoteLength(const LinearSequenceArgs& args, const Stream& stream) {
  int seen = longest_sequence;
  while (args.count > seen && !longest_sequence.compare_exchange_weak(seen, args.count)) {
  }
  return LinearSequenceCpu(args, stream);
}

// From a layer's attention to the next one's: o, gate and up, down, and q, k and v. Stages of a
// pipeline, which may wait for each other beside their steps, enqueue each product on its own.
TEST(Engine, ALayersProductsAreEnqueuedTogetherOnOneStageOnly) {
  ASSERT_OK_AND_ASSIGN(const Ops* const ops, OpsFor(Device::kCpu));
  Ops noting = *ops;
  noting.linear_sequence = NoteLength;
  const auto longest = [&](int64_t tp, int64_t pp) {
    longest_sequence = 0;
    const LocalClusterOptions options = {
        .model_dir = kModel, .tp = tp, .pp = pp, .dummy = true, .ops = &noting};
    EXPECT_OK(RunLocally(options, {GreedyRequest(1, {1, 2, 3}, 4)}).status());
    return longest_sequence.load();
  };
  EXPECT_EQ(longest(1, 1), 4);
  EXPECT_EQ(longest(2, 1), 2);  // all-reduces lie between the others
  EXPECT_EQ(longest(1, 2), 0);
}

TEST(Engine, AMissingCheckpointIsNamed) {
  EXPECT_THAT(RunLocally({.model_dir = "/nowhere"}, {GreedyRequest(1, {1}, 1)}),
              StatusIs(absl::StatusCode::kNotFound, ::testing::HasSubstr("/nowhere")));
}

}  // namespace
}  // namespace tessera::testing
