#include "model/config.h"

#include <random>
#include <string>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/parameters.h"
#include "tests/model/mutate.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

// Qwen2-7B as its repository writes it (docs/formats.md, "config.json core values").
json Qwen2() {
  return json::parse(R"({
    "architectures": ["Qwen2ForCausalLM"], "bos_token_id": 151643, "eos_token_id": 151645,
    "hidden_act": "silu", "hidden_size": 3584, "intermediate_size": 18944,
    "max_position_embeddings": 32768, "max_window_layers": 28, "num_attention_heads": 28,
    "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": false,
    "torch_dtype": "bfloat16", "use_sliding_window": false, "vocab_size": 152064})");
}

json Llama31() {
  json config = Qwen2();
  config["architectures"] = {"LlamaForCausalLM"};
  config["rope_theta"] = 500000.0;
  config["rope_scaling"] = {{"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192},
                            {"rope_type", "llama3"}};
  return config;
}

json Qwen2Moe() {
  json config = Qwen2();
  config["architectures"] = {"Qwen2MoeForCausalLM"};
  config["num_experts"] = 64;
  config["num_experts_per_tok"] = 8;
  config["moe_intermediate_size"] = 2560;
  config["shared_expert_intermediate_size"] = 20480;
  return config;
}

absl::StatusOr<ModelConfig> Parse(const json& config) {
  return ParseModelConfig(config.dump(), "config.json");
}

// `config` with one field set to `value`.
absl::StatusOr<ModelConfig> ParseWith(json config, const std::string& field, json value) {
  config[field] = std::move(value);
  return Parse(config);
}

absl::StatusOr<ModelConfig> ParseWithout(json config, const std::string& field) {
  config.erase(field);
  return Parse(config);
}

TEST(ParseModelConfig, ReadsTheShapeOfQwen2) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, Parse(Qwen2()));
  EXPECT_EQ(config.architecture, "Qwen2ForCausalLM");
  EXPECT_EQ(config.layers, 28);
  EXPECT_EQ(config.hidden, 3584);
  EXPECT_EQ(config.heads, 28);
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_EQ(config.head_size, 128);
  EXPECT_EQ(config.intermediate, 18944);
  EXPECT_EQ(config.vocab, 152064);
  EXPECT_EQ(config.max_positions, 32768);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope.theta, 1e6);
  EXPECT_EQ(config.dtype, DType::kBf16);
  EXPECT_EQ(config.bos_id, 151643);
  EXPECT_THAT(config.eos_ids, ElementsAre(151645));
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.quant.method, QuantMethod::kNone);
}

TEST(ParseModelConfig, ReadsTheQuantization) {
  const json quant = {{"quant_method", "gptq"}, {"bits", 8}, {"group_size", 128}};
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseWith(Qwen2(), "quantization_config", quant));
  EXPECT_EQ(config.quant.method, QuantMethod::kGptq);
  EXPECT_EQ(config.quant.bits, 8);
}

TEST(ParseModelConfig, ErrorsOfTheQuantizationNameTheFile) {
  EXPECT_THAT(ParseWith(Qwen2(), "quantization_config", {{"quant_method", "aqlm"}}),
              StatusIs(kUnimplemented, HasSubstr("config.json: quantization_config: quant_method "
                                                 "is \"aqlm\"")));
}

TEST(ParseModelConfig, FamilySaysWhichAttentionWeightsExist) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig qwen2, Parse(Qwen2()));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.qk_norm);
  ASSERT_OK_AND_ASSIGN(const ModelConfig llama, Parse(Llama31()));
  EXPECT_FALSE(llama.qkv_bias);
  EXPECT_FALSE(llama.qk_norm);
  ASSERT_OK_AND_ASSIGN(const ModelConfig qwen3,
                       ParseWith(Qwen2(), "architectures", {"Qwen3ForCausalLM"}));
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_TRUE(qwen3.qk_norm);
}

TEST(ParseModelConfig, ReadsTheSpellingsOfTransformers5) {
  json config = Qwen2();
  config.erase("rope_theta");
  config.erase("torch_dtype");
  config["dtype"] = "float16";
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5e5}};
  ASSERT_OK_AND_ASSIGN(const ModelConfig parsed, Parse(config));
  EXPECT_EQ(parsed.dtype, DType::kF16);
  EXPECT_EQ(parsed.rope.theta, 5e5);
  EXPECT_EQ(parsed.rope.kind, RopeKind::kDefault);
}

TEST(ParseModelConfig, AbsentRopeThetaIsTenThousand) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseWithout(Qwen2(), "rope_theta"));
  EXPECT_EQ(config.rope.theta, 1e4);
}

TEST(ParseModelConfig, AbsentOrNullKvHeadsAreAllHeads) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig absent, ParseWithout(Qwen2(), "num_key_value_heads"));
  EXPECT_EQ(absent.kv_heads, 28);
  ASSERT_OK_AND_ASSIGN(const ModelConfig null, ParseWith(Qwen2(), "num_key_value_heads", nullptr));
  EXPECT_EQ(null.kv_heads, 28);
}

TEST(ParseModelConfig, HeadSizeNeedNotBeHiddenOverHeads) {
  json config = Qwen2();  // Qwen3-0.6B: 16 heads of 128 and hidden 1024
  config["architectures"] = {"Qwen3ForCausalLM"};
  config["hidden_size"] = 1024;
  config["num_attention_heads"] = 16;
  config["head_dim"] = 128;
  ASSERT_OK_AND_ASSIGN(const ModelConfig given, Parse(config));
  EXPECT_EQ(given.head_size, 128);
  // Qwen3Config's default in transformers is 128, not hidden / heads.
  ASSERT_OK_AND_ASSIGN(const ModelConfig absent, ParseWithout(config, "head_dim"));
  EXPECT_EQ(absent.head_size, 128);
}

TEST(ParseModelConfig, NullHeadSizeIsHiddenOverHeads) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseWith(Llama31(), "head_dim", nullptr));
  EXPECT_EQ(config.head_size, 128);
}

TEST(ParseModelConfig, EosIsAnIdAListOrNothing) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig list,
                       ParseWith(Qwen2(), "eos_token_id", {128001, 128008, 128009}));
  EXPECT_THAT(list.eos_ids, ElementsAre(128001, 128008, 128009));
  ASSERT_OK_AND_ASSIGN(const ModelConfig null, ParseWith(Qwen2(), "eos_token_id", nullptr));
  EXPECT_THAT(null.eos_ids, IsEmpty());
  ASSERT_OK_AND_ASSIGN(const ModelConfig absent, ParseWithout(Qwen2(), "eos_token_id"));
  EXPECT_THAT(absent.eos_ids, IsEmpty());
}

TEST(ParseModelConfig, AbsentBosIsMinusOne) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseWith(Qwen2(), "bos_token_id", nullptr));
  EXPECT_EQ(config.bos_id, -1);
}

TEST(ParseModelConfig, IgnoresPretrainingTpAndUnknownFields) {
  json config = Llama31();
  config["pretraining_tp"] = 2;
  config["a_field_of_tomorrow"] = {1, 2, 3};
  EXPECT_OK(Parse(config));
}

TEST(ParseModelConfig, ReadsLlama3Rope) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, Parse(Llama31()));
  EXPECT_EQ(config.rope.kind, RopeKind::kLlama3);
  EXPECT_EQ(config.rope.theta, 5e5);
  EXPECT_EQ(config.rope.factor, 8.0);
  EXPECT_EQ(config.rope.low_freq_factor, 1.0);
  EXPECT_EQ(config.rope.high_freq_factor, 4.0);
  EXPECT_EQ(config.rope.original_max_positions, 8192);
}

TEST(ParseModelConfig, ReadsYarnUnderItsOlderKeyAndKeepsTheFactorAsWritten) {
  const json scaling = {
      {"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 16384}};
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseWith(Qwen2(), "rope_scaling", scaling));
  EXPECT_EQ(config.rope.kind, RopeKind::kYarn);
  EXPECT_EQ(config.rope.factor, 4.0);  // though 32768 / 16384 is 2
  EXPECT_EQ(config.rope.original_max_positions, 16384);
  EXPECT_EQ(config.rope.beta_fast, 32.0);
  EXPECT_EQ(config.rope.beta_slow, 1.0);
}

TEST(ParseModelConfig, YarnStretchesTheContext) {
  const json scaling = {
      {"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseWith(Qwen2(), "rope_scaling", scaling));
  EXPECT_EQ(config.max_positions, 131072);
  json stretched = Qwen2();
  stretched["max_position_embeddings"] = 200000;
  ASSERT_OK_AND_ASSIGN(const ModelConfig longer, ParseWith(stretched, "rope_scaling", scaling));
  EXPECT_EQ(longer.max_positions, 200000);
}

TEST(ParseModelConfig, AbsentOriginalPositionsAreTheMaximum) {
  const json scaling = {{"rope_type", "yarn"}, {"factor", 4.0}};
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseWith(Qwen2(), "rope_scaling", scaling));
  EXPECT_EQ(config.rope.original_max_positions, 32768);
}

TEST(ParseModelConfig, RopeTypesThatAreNotComputedAreNamed) {
  for (const std::string type : {"linear", "dynamic", "longrope", "su"}) {
    const json scaling = {{"type", type}, {"factor", 2.0}};
    EXPECT_THAT(ParseWith(Qwen2(), "rope_scaling", scaling),
                StatusIs(kUnimplemented, AllOf(HasSubstr("config.json"), HasSubstr(type))));
  }
}

TEST(ParseModelConfig, PartialAndPerLayerRotationsAreUnimplemented) {
  EXPECT_THAT(ParseWith(Qwen2(), "partial_rotary_factor", 0.5),
              StatusIs(kUnimplemented, HasSubstr("partial_rotary_factor is 0.5")));
  EXPECT_THAT(ParseWith(Qwen2(), "rope_parameters",
                        {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 1e6}}}}),
              StatusIs(kUnimplemented, HasSubstr("full_attention")));
}

TEST(ParseModelConfig, RoutedExpertsAreRead) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, Parse(Qwen2Moe()));
  EXPECT_EQ(config.moe.experts, 64);
  EXPECT_EQ(config.moe.experts_per_token, 8);
  EXPECT_EQ(config.moe.intermediate, 2560);
  EXPECT_EQ(config.moe.shared_intermediate, 20480);
  EXPECT_FALSE(config.moe.normalize_top_k);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_TRUE(config.IsSparse(0));
}

TEST(ParseModelConfig, ExpertsMayHaveTheNameOfTransformers5) {
  json renamed = Qwen2Moe();
  renamed.erase("num_experts");
  renamed["num_local_experts"] = 60;
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, Parse(renamed));
  EXPECT_EQ(config.moe.experts, 60);
}

TEST(ParseModelConfig, SparseStepAndDenseLayersPickTheRoutedLayers) {
  json config = Qwen2Moe();
  config["decoder_sparse_step"] = 2;  // layers 1, 3, 5, ...
  config["mlp_only_layers"] = {3};
  ASSERT_OK_AND_ASSIGN(const ModelConfig parsed, Parse(config));
  EXPECT_FALSE(parsed.IsSparse(0));
  EXPECT_TRUE(parsed.IsSparse(1));
  EXPECT_FALSE(parsed.IsSparse(3));
  EXPECT_TRUE(parsed.IsSparse(5));
}

TEST(ParseModelConfig, DenseFamiliesIgnoreExpertFields) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseWith(Qwen2(), "num_experts", 64));
  EXPECT_EQ(config.moe.experts, 0);
  EXPECT_FALSE(config.IsSparse(0));
}

TEST(ParseModelConfig, UnknownArchitectureListsTheKnownOnes) {
  EXPECT_THAT(ParseWith(Qwen2(), "architectures", {"MambaForCausalLM"}),
              StatusIs(kUnimplemented,
                       AllOf(HasSubstr("MambaForCausalLM"), HasSubstr("LlamaForCausalLM"))));
}

TEST(ParseModelConfig, OptionsThatChangeTheForwardPassAreUnimplemented) {
  const struct {
    json base;
    std::string field;
    json value;
  } cases[] = {
      {Qwen2(), "use_sliding_window", true},
      {Qwen2(), "hidden_act", "gelu"},
      {Qwen2(), "layer_types", {"full_attention", "sliding_attention"}},
      {Llama31(), "attention_bias", true},
      {Llama31(), "mlp_bias", true},
      {Qwen2(), "head_dim", 80},
  };
  for (const auto& [base, field, value] : cases) {
    const std::string named = field == "head_dim" ? "head size 80" : field;
    EXPECT_THAT(ParseWith(base, field, value), StatusIs(kUnimplemented, HasSubstr(named)));
  }
}

TEST(ParseModelConfig, AnInertSlidingWindowIsIgnored) {
  json config = Qwen2();
  config["sliding_window"] = 4096;
  config["max_window_layers"] = 0;
  EXPECT_OK(Parse(config));
}

TEST(ParseModelConfig, TextThatIsNotAnObjectIsInvalid) {
  for (const std::string text : {"", "{", "[]", "3", "null", "{} x", "{\"architectures\": [NaN]}"})
    EXPECT_THAT(ParseModelConfig(text, "some/config.json"),
                StatusIs(kInvalid, HasSubstr("some/config.json")))
        << text;
}

TEST(ParseModelConfig, DeepNestingIsInvalid) {
  const std::string text = absl::StrCat("{\"architectures\":", std::string(100000, '['));
  EXPECT_THAT(ParseModelConfig(text, "config.json"), StatusIs(kInvalid, HasSubstr("100001")));
}

TEST(ParseModelConfig, FieldsThatAreMissingAreNamed) {
  for (const std::string field :
       {"architectures", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "vocab_size", "max_position_embeddings"}) {
    EXPECT_THAT(ParseWithout(Qwen2(), field),
                StatusIs(kInvalid, AllOf(HasSubstr("config.json"), HasSubstr(field))));
  }
  for (const std::string field : {"num_experts", "num_experts_per_tok", "moe_intermediate_size",
                                  "shared_expert_intermediate_size"}) {
    EXPECT_THAT(ParseWithout(Qwen2Moe(), field), StatusIs(kInvalid, HasSubstr(field)));
  }
  for (const std::string field : {"factor", "low_freq_factor", "high_freq_factor"}) {
    json config = Llama31();
    config["rope_scaling"].erase(field);
    EXPECT_THAT(Parse(config),
                StatusIs(kInvalid, AllOf(HasSubstr("rope_scaling"), HasSubstr(field))));
  }
}

TEST(ParseModelConfig, ValuesOutsideTheirRangeAreNamed) {
  const struct {
    std::string field;
    json value;
  } cases[] = {
      {"architectures", json::array()},
      {"architectures", "Qwen2ForCausalLM"},
      {"architectures", {1}},
      {"num_hidden_layers", 0},
      {"num_hidden_layers", -1},
      {"num_hidden_layers", 1025},
      {"num_hidden_layers", 28.0},
      {"num_hidden_layers", "28"},
      {"hidden_size", 3588},
      {"hidden_size", 0},
      {"hidden_size", int64_t{1} << 40},
      {"intermediate_size", 18945},
      {"intermediate_size", uint64_t{1} << 63},
      {"num_attention_heads", 0},
      {"num_attention_heads", 2048},
      {"num_key_value_heads", 3},
      {"num_key_value_heads", 56},
      {"num_key_value_heads", 0},
      {"head_dim", -1},
      {"vocab_size", 0},
      {"vocab_size", (1 << 24) + 1},
      {"max_position_embeddings", 0},
      {"max_position_embeddings", (1 << 24) + 1},
      {"rms_norm_eps", 0.0},
      {"rms_norm_eps", 1.0},
      {"rms_norm_eps", -1e-6},
      {"rms_norm_eps", "1e-6"},
      {"rope_theta", 0},
      {"rope_theta", -1e4},
      {"rope_theta", 1e300},
      {"tie_word_embeddings", 1},
      {"torch_dtype", "int8"},
      {"torch_dtype", 16},
      {"bos_token_id", -1},
      {"eos_token_id", 2147483648},
      {"eos_token_id", {151645, -1}},
      {"eos_token_id", {1.5}},
      {"eos_token_id", "<eos>"},
      {"rope_scaling", "yarn"},
      {"quantization_config", "gptq"},
  };
  for (const auto& [field, value] : cases) {
    EXPECT_THAT(ParseWith(Qwen2(), field, value),
                StatusIs(kInvalid, AllOf(HasSubstr("config.json"), HasSubstr(field))))
        << field << " " << value;
  }
}

TEST(ParseModelConfig, MoeValuesOutsideTheirRangeAreNamed) {
  const struct {
    std::string field;
    json value;
  } cases[] = {
      {"num_experts", 0},
      {"num_experts", 100000},
      {"num_experts_per_tok", 65},
      {"num_experts_per_tok", 0},
      {"moe_intermediate_size", 4},
      {"decoder_sparse_step", 0},
      {"mlp_only_layers", {28}},
      {"mlp_only_layers", {-1}},
      {"mlp_only_layers", 3},
      {"norm_topk_prob", "yes"},
      {"shared_expert_intermediate_size", 20},
  };
  for (const auto& [field, value] : cases) {
    EXPECT_THAT(ParseWith(Qwen2Moe(), field, value), StatusIs(kInvalid, HasSubstr(field)))
        << field << " " << value;
  }
}

TEST(ParseModelConfig, RopeValuesOutsideTheirRangeAreNamed) {
  const struct {
    std::string field;
    json value;
  } cases[] = {
      {"factor", 0.5},
      {"factor", 1e300},
      {"factor", "8"},
      {"low_freq_factor", 4.0},
      {"low_freq_factor", 0.0},
      {"high_freq_factor", -1.0},
      {"original_max_position_embeddings", 0},
      {"original_max_position_embeddings", 8192.5},
      {"rope_theta", 1.0},
      {"rope_type", 3},
  };
  for (const auto& [field, value] : cases) {
    json config = Llama31();
    config["rope_scaling"][field] = value;
    EXPECT_THAT(Parse(config),
                StatusIs(kInvalid, AllOf(HasSubstr("config.json: rope_scaling"), HasSubstr(field))))
        << field << " " << value;
  }
}

TEST(ParseModelConfig, YarnValuesOutsideTheirRangeAreNamed) {
  const struct {
    std::string field;
    json value;
  } cases[] = {{"attention_factor", 0.0}, {"attention_factor", -1.0}, {"beta_fast", 0.5},
               {"beta_slow", 64.0},       {"mscale", -1.0},           {"truncate", 1}};
  for (const auto& [field, value] : cases) {
    json config = Qwen2();
    config["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}, {field, value}};
    EXPECT_THAT(Parse(config), StatusIs(kInvalid, HasSubstr(field))) << field << " " << value;
  }
}

TEST(ParseModelConfig, HeadsMustDivideHiddenWhereNoHeadSizeIsGiven) {
  EXPECT_THAT(ParseWith(Qwen2(), "hidden_size", 3592),
              StatusIs(kInvalid, HasSubstr("hidden_size is 3592, must be a multiple of "
                                           "num_attention_heads 28")));
}

TEST(ParseModelConfig, SizesWhoseProductsOverflowAreInvalid) {
  json config = Qwen2Moe();
  config["hidden_size"] = 1 << 20;
  config["head_dim"] = 128;
  config["num_experts"] = 1024;
  config["moe_intermediate_size"] = 1 << 22;
  config["num_hidden_layers"] = 1024;
  EXPECT_THAT(Parse(config), StatusIs(kInvalid, HasSubstr("1000000000000000 parameters")));
}

// Every outcome but a crash is right; what is accepted must be fit for the arithmetic of shards.
TEST(ParseModelConfig, MutatedTextsNeverCrash) {
  const json valids[] = {Qwen2(), Llama31(), Qwen2Moe()};
  std::mt19937 random(20261120);
  int accepted = 0;
  for (int i = 0; i < 5000; ++i) {
    const std::string text = testing::Mutate(valids[i % 3].dump(), random);
    const absl::StatusOr<ModelConfig> config = ParseModelConfig(text, "config.json");
    if (!config.ok()) continue;
    ++accepted;
    ASSERT_GT(ParameterCount(*config), 0) << text;
    ASSERT_LT(ParameterCount(*config), int64_t{1} << 50) << text;
    ASSERT_FALSE(MakeRopeTable(config->rope, config->head_size).inv_freq.empty()) << text;
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace tessera
