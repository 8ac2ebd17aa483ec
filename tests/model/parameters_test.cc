#include "model/parameters.h"

#include <string>

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

// Layer 1 is routed: 4 experts of 16 and a shared one of 24 beside hidden 8, one head of 32.
ModelConfig RoutedConfig() {
  ModelConfig config;
  config.layers = 2;
  config.hidden = 8;
  config.heads = 1;
  config.kv_heads = 1;
  config.head_size = 32;
  config.intermediate = 40;
  config.vocab = 10;
  config.moe = {.experts = 4,
                .experts_per_token = 2,
                .intermediate = 16,
                .shared_intermediate = 24,
                .sparse_step = 2,
                .dense_layers = {}};
  return config;
}

// Attention 4 * 32 * 8 = 1024 and two norms of 8; dense 3 * 40 * 8 = 960; routed 4 * 3 * 16 * 8 =
// 1536, router 4 * 8 = 32, shared 3 * 24 * 8 = 576 and its gate 8.
TEST(LayerParameters, CountsEveryExpertAndGate) {
  EXPECT_EQ(LayerParameters(RoutedConfig(), 0), 1024 + 16 + 960);
  EXPECT_EQ(LayerParameters(RoutedConfig(), 1), 1024 + 16 + 1536 + 32 + 576 + 8);
}

TEST(LayerParameters, CountsBiasesAndHeadNorms) {
  ModelConfig config = RoutedConfig();
  config.qkv_bias = true;  // 3 * 32
  config.qk_norm = true;   // 2 * 32
  EXPECT_EQ(LayerParameters(config, 0), 1024 + 16 + 960 + 96 + 64);
}

TEST(ParameterCount, CountsTiedEmbeddingsOnce) {
  ModelConfig config = RoutedConfig();
  const int64_t layers = LayerParameters(config, 0) + LayerParameters(config, 1);
  EXPECT_EQ(ParameterCount(config), layers + 8 + 2 * 80);
  config.tied_embeddings = true;
  EXPECT_EQ(ParameterCount(config), layers + 8 + 80);
}

TEST(LayerWeightBytes, IsTwiceTheParametersInBf16) {
  const ModelConfig config = RoutedConfig();
  EXPECT_EQ(LayerWeightBytes(config, 1), 2 * LayerParameters(config, 1));
  EXPECT_EQ(VocabWeightBytes(config), 2 * 80);
}

// At 8 bits and one group a column: rows of whole 64 bytes, two bytes of scale a row. Linear rows:
// 96 + 8 of attention, 4 * (32 + 8) of the experts, 48 + 8 shared, none longer than 64. Norms,
// router and gate stay in BF16.
TEST(LayerWeightBytes, QuantizesLinearLayersOnly) {
  ModelConfig config = RoutedConfig();
  config.quant = {QuantMethod::kGptq, 8, -1, true};
  const int64_t rows = 96 + 8 + 4 * (32 + 8) + 48 + 8;
  const int64_t dense = 16 + 32 + 8;
  EXPECT_EQ(LayerWeightBytes(config, 1), 64 * rows + 2 * rows + 2 * dense);
}

struct NamedModel {
  std::string name;
  int64_t parameters;
};

void PrintTo(const NamedModel& model, std::ostream* out) { *out << model.name; }

class BenchmarkModelTest : public ::testing::TestWithParam<NamedModel> {};

TEST_P(BenchmarkModelTest, HasItsPublishedNumberOfParameters) {
  ASSERT_OK_AND_ASSIGN(
      const ModelConfig config,
      LoadModelConfig(absl::StrCat(TESSERA_SOURCE_DIR "/benchmarks/models/", GetParam().name)));
  EXPECT_EQ(ParameterCount(config), GetParam().parameters);
}

// docs/formats.md, "Parameter counts", which derives them from the published shapes.
INSTANTIATE_TEST_SUITE_P(
    All, BenchmarkModelTest,
    ::testing::Values(
        NamedModel{"qwen2-0.5b", 494'032'768}, NamedModel{"qwen2-1.5b", 1'543'714'304},
        NamedModel{"qwen2.5-3b", 3'085'938'688}, NamedModel{"qwen2-7b", 7'615'616'512},
        NamedModel{"qwen2.5-14b", 14'770'033'664}, NamedModel{"qwen1.5-32b", 32'512'218'112},
        NamedModel{"qwen2.5-32b", 32'763'876'352}, NamedModel{"qwen2-72b", 72'706'203'648},
        NamedModel{"qwen2-57b-a14b", 57'408'658'944}, NamedModel{"llama-2-13b", 13'015'864'320},
        NamedModel{"llama-3.1-8b", 8'030'261'248}, NamedModel{"llama-3.1-70b", 70'553'706'496}));

}  // namespace
}  // namespace tessera
