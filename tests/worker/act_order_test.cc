// Act-order on CPU ranks: each model equals the dense one of the same weights.

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"
#include "tests/worker/act_order_model.h"
#include "tests/worker/local_cluster.h"

namespace tessera::testing {
namespace {

class ActOrderTest : public ::testing::TestWithParam<ActOrderCase> {};

// A prompt in two steps and some decoding, over one and two ranks.
TEST_P(ActOrderTest, EqualsTheDenseModelOfTheSameWeights) {
  ActOrderModel model(GetParam());
  const std::string& packed = model.packed.Write();
  const std::string& dense = model.dense.Write();
  const std::vector<int32_t> prompt = {3, 14, 15, 62, 6, 5, 35, 8, 9, 7, 9, 3, 23, 8, 46, 2, 63};
  const auto run = [&](const std::string& dir, int64_t tp) {
    SequenceRequest request = GreedyRequest(0, prompt, 4);
    request.prompt_logprobs = true;
    return RunLocally({.model_dir = dir, .tp = tp, .max_step_tokens = 16, .context = 64},
                      {request});
  };
  ASSERT_OK_AND_ASSIGN(const auto want, run(dense, 1));
  for (const int64_t tp : {1, 2}) {
    SCOPED_TRACE(tp);
    ASSERT_OK_AND_ASSIGN(const auto got, run(packed, tp));
    EXPECT_EQ(got.at(0).ids(), want.at(0).ids());
    ASSERT_EQ(got.at(0).prompt_logprobs.size(), prompt.size() - 1);
    // fp32 sums in other orders.
    for (size_t i = 0; i + 1 < prompt.size(); ++i)
      EXPECT_NEAR(got.at(0).prompt_logprobs[i], want.at(0).prompt_logprobs[i], 1e-4) << i;
  }
}

TEST_P(ActOrderTest, DummyWeightsAreTheSameModelOverAnySharding) {
  ActOrderModel model(GetParam());
  const std::string& dir = model.packed.Write();
  const auto run = [&](int64_t tp) {
    return RunLocally({.model_dir = dir, .tp = tp, .context = 64, .dummy = true},
                      {GreedyRequest(0, {3, 14, 15, 62, 6}, 4)});
  };
  ASSERT_OK_AND_ASSIGN(const auto one, run(1));
  ASSERT_OK_AND_ASSIGN(const auto two, run(2));
  EXPECT_EQ(two.at(0).ids(), one.at(0).ids());
  EXPECT_NEAR(two.at(0).tokens[0].top_logprobs[0], one.at(0).tokens[0].top_logprobs[0], 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Models, ActOrderTest, ::testing::ValuesIn(ActOrderCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tessera::testing
