// Checkpoints written by transformers, against what transformers itself computes in fp32
// (golden.json beside each).

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/status_matchers.h"
#include "tests/worker/local_cluster.h"

namespace tessera::testing {
namespace {

// fp32 against fp32 with another order of sums: the bound; observed errors are near 5e-5.
constexpr float kLogprobTolerance = 1e-3f;

struct Case {
  std::string model;
  int64_t tp, pp;
};

class GoldenTest : public ::testing::TestWithParam<Case> {
 protected:
  std::string Dir() const { return std::string(TESSERA_TEST_DATA) + "/" + GetParam().model; }
  nlohmann::json Golden() const {
    std::ifstream file(Dir() + "/golden.json");
    return nlohmann::json::parse(file);
  }
};

TEST_P(GoldenTest, GreedyIdsAndLogprobsEqualTransformers) {
  const nlohmann::json golden = Golden();
  std::vector<SequenceRequest> requests;
  for (size_t i = 0; i < golden["cases"].size(); ++i) {
    const nlohmann::json& c = golden["cases"][i];
    requests.push_back(GreedyRequest(i, c["prompt_ids"].get<std::vector<int32_t>>(),
                                     static_cast<int64_t>(c["greedy"].size())));
    requests.back().prompt_logprobs = true;
  }
  ASSERT_OK_AND_ASSIGN(
      const auto results,
      RunLocally({.model_dir = Dir(), .tp = GetParam().tp, .pp = GetParam().pp, .context = 1024},
                 requests));
  for (size_t i = 0; i < golden["cases"].size(); ++i) {
    SCOPED_TRACE(i);
    const nlohmann::json& c = golden["cases"][i];
    const LocalResult& r = results.at(i);
    EXPECT_EQ(r.ids(), c["greedy"].get<std::vector<int32_t>>());
    for (size_t t = 0; t < c["top5"].size() && t < r.tokens.size(); ++t) {
      ASSERT_EQ(r.tokens[t].top_logprobs.size(), 5u);
      for (size_t k = 0; k < 5; ++k) {
        EXPECT_NEAR(r.tokens[t].top_logprobs[k], c["top5"][t][k][1].get<float>(), kLogprobTolerance)
            << "token " << t << " candidate " << k;
      }
    }
    std::vector<float> expected;
    for (const nlohmann::json& v : c["prompt_logprobs"]) {
      if (!v.is_null()) expected.push_back(v.get<float>());
    }
    ASSERT_EQ(r.prompt_logprobs.size(), expected.size());
    for (size_t t = 0; t < expected.size(); ++t)
      EXPECT_NEAR(r.prompt_logprobs[t], expected[t], kLogprobTolerance) << "prompt token " << t;
  }
}

std::string NameOf(const ::testing::TestParamInfo<Case>& info) {
  std::string name = info.param.model + "_tp" + std::to_string(info.param.tp) + "_pp" +
                     std::to_string(info.param.pp);
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}

// Query heads, kv heads and layers of each model decide which shapes it takes.
INSTANTIATE_TEST_SUITE_P(
    Checkpoints, GoldenTest,
    ::testing::Values(
        Case{"tiny-qwen2", 1, 1}, Case{"tiny-qwen2", 2, 1}, Case{"tiny-qwen2", 4, 1},
        Case{"tiny-qwen2", 1, 2}, Case{"tiny-qwen2", 1, 3}, Case{"tiny-qwen2", 2, 2},
        Case{"models/llama3-f16-sharded", 1, 1}, Case{"models/llama3-f16-sharded", 2, 1},
        Case{"models/llama-odd-vocab-f32", 1, 1}, Case{"models/llama-odd-vocab-f32", 2, 1},
        Case{"models/llama-odd-vocab-f32", 1, 2}, Case{"models/qwen3-bf16", 1, 1},
        Case{"models/qwen3-bf16", 2, 1}, Case{"models/qwen2-yarn-bf16", 1, 1},
        Case{"models/qwen2-yarn-bf16", 2, 1}, Case{"models/qwen2-mqa-7-layers-bf16", 1, 1},
        Case{"models/qwen2-mqa-7-layers-bf16", 1, 3}, Case{"models/qwen2-mqa-7-layers-bf16", 3, 1},
        Case{"models/qwen2-mqa-7-layers-bf16", 2, 2}),
    NameOf);

// Files of the real quantizers, against weights dequantized in double precision: the formats of
// docs/quantized-formats.md, in order and in act-order, each over one rank, tensor-parallel ranks
// and stages.
std::vector<Case> QuantizedCases() {
  std::vector<Case> cases;
  for (const char* model :
       {"gptq-int4-g128-tiny", "autogptq-int4-g32-llama3", "gptq-int4-act-g32-qwen3",
        "gptq-int4-asym-act-g32-llama3", "gptq-int8-column-qwen3",
        "gptq-v2-int4-asym-act-g32-qwen3", "awq-int4-g32-llama3", "round-mixed-llama3",
        "round-mixed-asym-llama3"}) {
    for (const auto& [tp, pp] : {std::pair(1, 1), {2, 1}, {4, 1}, {1, 2}, {2, 2}})
      cases.push_back({std::string("models/") + model, tp, pp});
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Quantized, GoldenTest, ::testing::ValuesIn(QuantizedCases()), NameOf);

}  // namespace
}  // namespace tessera::testing
