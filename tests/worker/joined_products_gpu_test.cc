// A whole model of packed weights wide enough that a layer's products go in one launch: the bits of
// the same model with every product on its own.

#include <cstdint>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"
#include "kernels/ops.h"
#include "kernels/runtime/current_gpu.h"
#include "kernels/runtime/runtime.h"
#include "tests/model/safetensors_file.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/local_cluster.h"

namespace tessera::testing {
namespace {

using nlohmann::json;

const Ops* cuda_ops = nullptr;
int sequences = 0;  // of three products or more

absl::Status Counted(const LinearSequenceArgs& args, const Stream& stream) {
  if (args.count >= 3) ++sequences;
  return cuda_ops->linear_sequence(args, stream);
}
absl::Status Apart(const LinearSequenceArgs& args, const Stream& stream) {
  for (int i = 0; i < args.count; ++i) RETURN_IF_ERROR(cuda_ops->linear(args.products[i], stream));
  return absl::OkStatus();
}

class JoinedProductsGpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto runtime = NewRuntime({.device = Device::kCuda});
    if (!runtime.ok()) GTEST_SKIP() << "no GPU: " << runtime.status();
    if (!CurrentGpu().is_sm90()) GTEST_SKIP() << "products are joined on sm_90 only";
    ASSERT_OK_AND_ASSIGN(cuda_ops, OpsFor(Device::kCuda));
  }

  // Three layers, every product of 132 tiles of 8 outputs or more.
  static std::string Model(const TempDir& dir, const json& quant) {
    json config = json::parse(
        std::ifstream(std::string(TESSERA_TEST_DATA) + "/models/qwen3-bf16/config.json"));
    config["hidden_size"] = 1152;
    config["intermediate_size"] = 1280;
    config["num_hidden_layers"] = 3;
    config["num_attention_heads"] = 9;
    config["num_key_value_heads"] = 3;
    config["head_dim"] = 128;
    config["quantization_config"] = quant;
    config.erase("layer_types");
    dir.Write("config.json", config.dump());
    return dir.path();
  }

  static std::map<uint64_t, LocalResult> Run(const std::string& path, const Ops& ops, bool graphs) {
    std::vector<int32_t> prompt;
    for (int32_t i = 0; i < 40; ++i) prompt.push_back(3 + i * 7 % 90);
    auto results = RunLocally({.model_dir = path,
                               .dummy = true,
                               .device = Device::kCuda,
                               .dtype = DType::kBf16,
                               .graphs = graphs,
                               .ops = &ops},
                              {GreedyRequest(0, prompt, 60)});
    EXPECT_OK(results.status());
    return results.ok() ? *results : std::map<uint64_t, LocalResult>{{0, {}}};
  }
};

TEST_F(JoinedProductsGpuTest, AModelGivesTheSameBits) {
  Ops joined = *cuda_ops, apart = *cuda_ops;
  joined.linear_sequence = Counted;
  apart.linear_sequence = Apart;
  for (const json& quant : {json{{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}},
                            json{{"quant_method", "gptq"}, {"bits", 8}, {"group_size", 128}},
                            json{{"quant_method", "awq"}, {"bits", 4}, {"group_size", 128}}}) {
    SCOPED_TRACE(quant.dump());
    const TempDir dir;
    const std::string path = Model(dir, quant);
    const LocalResult expected = Run(path, apart, false).at(0);
    ASSERT_EQ(expected.tokens.size(), 60u);
    for (const bool graphs : {false, true}) {
      sequences = 0;
      const LocalResult got = Run(path, joined, graphs).at(0);
      EXPECT_GE(sequences, 3) << "graphs " << graphs;  // captured once, or each step
      ASSERT_EQ(got.ids(), expected.ids()) << "graphs " << graphs;
      for (size_t i = 0; i < got.tokens.size(); ++i)
        ASSERT_EQ(got.tokens[i].top_logprobs, expected.tokens[i].top_logprobs)
            << "graphs " << graphs << ", token " << i;
    }
  }
}

}  // namespace
}  // namespace tessera::testing
