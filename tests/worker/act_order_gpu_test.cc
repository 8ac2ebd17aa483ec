// Act-order on one GPU: each model is within fp16 of the dense one of the same weights.

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/runtime/runtime.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/act_order_model.h"
#include "tests/worker/local_cluster.h"

namespace tessera::testing {
namespace {

class ActOrderGpuTest : public ::testing::TestWithParam<ActOrderCase> {
 protected:
  void SetUp() override {
    const auto runtime = NewRuntime({.device = Device::kCuda});
    if (!runtime.ok()) GTEST_SKIP() << "no GPU: " << runtime.status();
  }
};

// Prompt log-probabilities go through the kernels of many rows, the tokens after it through those
// of few: teacher-forced on the ids that fp32 gives.
TEST_P(ActOrderGpuTest, IsTheDenseModelUpToRounding) {
  ActOrderModel model(GetParam());
  const std::string& packed = model.packed.Write();
  const std::string& dense = model.dense.Write();
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 40; ++i) prompt.push_back(i * 29 % 64);
  SequenceRequest request = GreedyRequest(0, prompt, 8);
  request.prompt_logprobs = true;
  LocalClusterOptions options = {.model_dir = dense, .context = 128};
  ASSERT_OK_AND_ASSIGN(const auto want, RunLocally(options, {request}));
  options.model_dir = packed;
  options.device = Device::kCuda;
  options.dtype = DType::kF16;
  ASSERT_OK_AND_ASSIGN(const auto got, RunLocally(options, {request}));
  ASSERT_EQ(got.at(0).prompt_logprobs.size(), prompt.size() - 1);
  // Rounding to fp16 is 2^-11 of a value; logits of up to 40 sum 64 terms of roundings of three
  // matrices ahead. A column in a wrong place is off by whole units.
  constexpr double kTolerance = 0.1;
  for (size_t i = 0; i + 1 < prompt.size(); ++i)
    EXPECT_NEAR(got.at(0).prompt_logprobs[i], want.at(0).prompt_logprobs[i], kTolerance) << i;
  for (size_t i = 0; i < want.at(0).tokens.size(); ++i) {
    const SampledToken& token = want.at(0).tokens[i];
    const SampledToken& ours = got.at(0).tokens[i];
    EXPECT_NEAR(ours.logprob, token.logprob, kTolerance) << i;
    if (ours.id == token.id) continue;
    EXPECT_LT(token.top_logprobs[0] - token.top_logprobs[1], kTolerance) << i;
    break;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ActOrderGpuTest, ::testing::ValuesIn(ActOrderCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tessera::testing
