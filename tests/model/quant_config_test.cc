#include "model/quant_config.h"

#include <random>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/json.h"
#include "tests/model/mutate.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
const char kDown0[] = "model.layers.0.mlp.down_proj";
const char kUp1[] = "model.layers.1.mlp.up_proj";

absl::StatusOr<QuantConfig> Parse(const json& quant, absl::string_view text = "") {
  return QuantConfig::Parse(quant, "config.json: quant", text);
}

json Gptq() { return {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}}; }
json Awq() { return {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 128}}; }
json AutoRound() {
  return {{"quant_method", "auto-round"}, {"bits", 4}, {"group_size", 128}, {"sym", true}};
}
json With(json quant, const std::string& field, json value) {
  quant[field] = std::move(value);
  return quant;
}

TEST(QuantConfig, ReadsTheOlderNamesOfBitsAndGroup) {
  const json quant = {{"quant_method", "awq"}, {"w_bit", 4}, {"q_group_size", 64}};
  ASSERT_OK_AND_ASSIGN(const QuantConfig config, Parse(quant));
  EXPECT_EQ(config.base().bits, 4);
  EXPECT_EQ(config.base().group, 64);
}

TEST(QuantConfig, MissingFieldsAreNamed) {
  for (const std::string field : {"quant_method", "bits", "group_size"}) {
    json quant = Gptq();
    quant.erase(field);
    EXPECT_THAT(Parse(quant), StatusIs(kInvalid, HasSubstr(field)));
  }
}

TEST(QuantConfig, ReadsGptq) {
  const json quant = {{"quant_method", "gptq"}, {"bits", 4},         {"group_size", 128},
                      {"desc_act", false},      {"sym", true},       {"damp_percent", 0.01},
                      {"static_groups", false}, {"dynamic", nullptr}};
  ASSERT_OK_AND_ASSIGN(const QuantConfig config, Parse(quant));
  EXPECT_EQ(config.base(), (QuantFormat{QuantMethod::kGptq, 4, 128, true, ZeroRule::kMinusOne}));
  EXPECT_FALSE(config.has_rules());
}

TEST(QuantConfig, EverySizeOfGptqIsRead) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const int group : {32, 64, 128, 256, -1}) {
      ASSERT_OK_AND_ASSIGN(const QuantConfig config,
                           Parse(With(With(Gptq(), "bits", bits), "group_size", group)));
      EXPECT_EQ(config.base().bits, bits);
      EXPECT_EQ(config.base().group, group);
    }
  }
}

TEST(QuantConfig, TheSecondGptqFormatStoresZeroPointsAsTheyAre) {
  for (const json& quant :
       {With(Gptq(), "checkpoint_format", "gptq_v2"), With(Gptq(), "format", "gptq_v2"),
        With(Gptq(), "quant_method", "gptq_v2")}) {
    ASSERT_OK_AND_ASSIGN(const QuantConfig config, Parse(quant));
    EXPECT_EQ(config.base().zero_rule, ZeroRule::kAsStored) << quant;
  }
}

TEST(QuantConfig, ActOrderIsWhatHasGroupsOutOfOrder) {
  const json ordered = With(Gptq(), "desc_act", true);
  EXPECT_TRUE(Parse(ordered)->base().act_order);
  EXPECT_FALSE(Parse(With(ordered, "static_groups", true))->base().act_order);
  EXPECT_FALSE(Parse(With(ordered, "group_size", -1))->base().act_order);
}

TEST(QuantConfig, ReadsAwqWithItsZeroPoints) {
  const json quant = {{"quant_method", "awq"}, {"bits", 4},
                      {"group_size", 128},     {"version", "GEMM"},
                      {"zero_point", true},    {"modules_to_not_convert", nullptr}};
  ASSERT_OK_AND_ASSIGN(const QuantConfig config, Parse(quant));
  EXPECT_EQ(config.base(), (QuantFormat{QuantMethod::kAwq, 4, 128, false, ZeroRule::kAsStored}));
  EXPECT_TRUE(Parse(With(quant, "zero_point", false))->base().symmetric);
}

TEST(QuantConfig, ModulesNotToConvertAreLettersOfANameAndSettleNothing) {
  const json quant = With(Awq(), "modules_to_not_convert", {"down_proj"});
  ASSERT_OK_AND_ASSIGN(const QuantConfig config, Parse(quant));
  EXPECT_FALSE(config.Of(kDown0).format.quantized());
  EXPECT_FALSE(config.Of(kDown0).specific);
  EXPECT_TRUE(config.Of(kUp1).format.quantized());
}

TEST(QuantConfig, ADynamicRuleMatchesFromTheStartAndOverrides) {
  const json dynamic = {{"+:.*\\.1\\..*(gate|up)_proj", {{"bits", 8}, {"group_size", -1}}},
                        {"-:model\\.layers\\.0\\.mlp\\.down", json::object()},
                        {"up_proj", {{"bits", 3}}}};
  ASSERT_OK_AND_ASSIGN(const QuantConfig config, Parse(With(Gptq(), "dynamic", dynamic)));
  EXPECT_EQ(config.Of(kUp1).format.bits, 8);
  EXPECT_EQ(config.Of(kUp1).format.group, -1);
  EXPECT_FALSE(config.Of(kDown0).format.quantized());
  EXPECT_TRUE(config.Of(kDown0).specific);
  EXPECT_EQ(config.Of("model.layers.0.mlp.up_proj").format, config.base());
}

// The object's fields are sorted once parsed; the text's order counts.
TEST(QuantConfig, TheFirstDynamicRuleOfTheTextCounts) {
  const std::string text =
      R"({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128,
          "dynamic": {".*up_proj": {"bits": 8}, ".*": {"bits": 2}}}})";
  const json all = json::parse(text);
  ASSERT_OK_AND_ASSIGN(const QuantConfig config, Parse(all["quantization_config"], text));
  EXPECT_EQ(config.Of(kUp1).format.bits, 8);
  EXPECT_EQ(config.Of(kDown0).format.bits, 2);
}

TEST(QuantConfig, TheHeadIsDenseUnlessNamed) {
  EXPECT_FALSE(Parse(Gptq())->Of("lm_head").format.quantized());
  EXPECT_TRUE(Parse(With(Gptq(), "lm_head", true))->Of("lm_head").format.quantized());
  const json named = With(AutoRound(), "extra_config", {{"lm_head", {{"bits", 8}}}});
  EXPECT_EQ(Parse(named)->Of("lm_head").format.bits, 8);
}

TEST(QuantConfig, AutoRoundPackingsSayLayoutAndZeroRule) {
  const struct {
    const char* packing;
    QuantMethod method;
    ZeroRule rule;
  } cases[] = {{"auto_round:auto_gptq", QuantMethod::kGptq, ZeroRule::kMinusOne},
               {"auto_round:gptq", QuantMethod::kGptq, ZeroRule::kMinusOne},
               {"auto", QuantMethod::kGptq, ZeroRule::kMinusOne},
               {"auto_round", QuantMethod::kGptq, ZeroRule::kAsStored},
               {"auto_round:gptqmodel", QuantMethod::kGptq, ZeroRule::kAsStored},
               {"auto_round:auto_awq", QuantMethod::kAwq, ZeroRule::kAsStored}};
  for (const auto& c : cases) {
    ASSERT_OK_AND_ASSIGN(const QuantConfig config,
                         Parse(With(AutoRound(), "packing_format", c.packing)));
    EXPECT_EQ(config.base().method, c.method) << c.packing;
    EXPECT_EQ(config.base().zero_rule, c.rule) << c.packing;
  }
}

TEST(QuantConfig, ExtraConfigNamesGoBeforePatterns) {
  const json extra = {{".*down_proj", {{"bits", 8}}},
                      {kDown0, {{"bits", 16}}},
                      {"model.layers.1.mlp.down_proj", {{"data_type", "fp"}}},
                      {"up_proj$", {{"group_size", 64}, {"sym", false}}}};
  ASSERT_OK_AND_ASSIGN(const QuantConfig config, Parse(With(AutoRound(), "extra_config", extra)));
  EXPECT_FALSE(config.Of(kDown0).format.quantized());
  EXPECT_FALSE(config.Of("model.layers.1.mlp.down_proj").format.quantized());
  EXPECT_EQ(config.Of("model.layers.2.mlp.down_proj").format.bits, 8);
  EXPECT_EQ(config.Of(kUp1).format.group, 64);
  EXPECT_FALSE(config.Of(kUp1).format.symmetric);
}

TEST(QuantConfig, OldFilesThatNameNoMethodAreTold) {
  EXPECT_EQ(Parse({{"bits", 4}, {"group_size", 128}, {"desc_act", false}})->base().method,
            QuantMethod::kGptq);
  EXPECT_EQ(Parse({{"w_bit", 4}, {"q_group_size", 128}, {"zero_point", true}})->base().method,
            QuantMethod::kAwq);
}

TEST(QuantConfig, QuantizationsThatAreNotReadAreNamed) {
  const struct {
    json base;
    std::string field;
    json value;
  } cases[] = {
      {Gptq(), "quant_method", "bitsandbytes"},
      {Gptq(), "checkpoint_format", "marlin"},
      {Gptq(), "format", "gptq_p"},
      {Gptq(), "is_marlin_format", true},
      {Gptq(), "pack_dtype", "int8"},
      {Gptq(), "group_size", 96},
      {Gptq(), "dynamic", {{"(?i)up", json::object()}}},
      {Awq(), "bits", 8},
      {Awq(), "version", "gemv"},
      {Awq(), "version", "gemv_fast"},
      {AutoRound(), "packing_format", "auto_round:llm_compressor"},
      {AutoRound(), "data_type", "mx_fp"},
      {AutoRound(), "act_bits", 8},
  };
  for (const auto& [base, field, value] : cases) {
    EXPECT_THAT(Parse(With(base, field, value)),
                StatusIs(kUnimplemented, AllOf(HasSubstr("config.json: quant: "),
                                               HasSubstr(field == "group_size" ? "96" : field))))
        << field << value;
  }
}

TEST(QuantConfig, AbsurdQuantizationsAreInvalid) {
  for (const auto& [bits, group] : {std::pair(5, 128), {4, 0}, {4, -2}, {4, 12}, {-4, 128}}) {
    EXPECT_THAT(Parse(With(With(Gptq(), "bits", bits), "group_size", group)),
                StatusIs(kInvalid, HasSubstr("config.json: quant: ")))
        << bits << " " << group;
  }
  EXPECT_THAT(Parse(With(Gptq(), "dynamic", {{"up", {{"bits", 7}}}})),
              StatusIs(kInvalid, AllOf(HasSubstr("dynamic \"up\""), HasSubstr("bits is 7"))));
  EXPECT_THAT(Parse(With(Gptq(), "dynamic", {{"up", 4}})),
              StatusIs(kInvalid, HasSubstr("dynamic")));
  EXPECT_THAT(Parse(With(Awq(), "modules_to_not_convert", {4})),
              StatusIs(kInvalid, HasSubstr("modules_to_not_convert")));
}

TEST(QuantConfig, MutatedTextsNeverCrash) {
  const json valids[] = {
      With(With(Gptq(), "dynamic", {{"+:.*(gate|up)_proj$", {{"bits", 8}}}, {"-:[a-c]+", {}}}),
           "desc_act", true),
      With(Awq(), "modules_to_not_convert", {"gate"}),
      With(AutoRound(), "extra_config",
           {{".*down_proj", {{"bits", 8}}}, {kDown0, {{"bits", 16}}}})};
  std::mt19937 random(5);
  int parsed = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::string text = testing::Mutate(valids[i % 3].dump(), random);
    const absl::StatusOr<json> object = ParseJson(text, "fuzz");
    if (!object.ok()) continue;
    const absl::StatusOr<QuantConfig> config = Parse(*object, text);
    if (config.ok()) parsed += config->Of(kDown0).format.bits > 0 ? 1 : 0;
  }
  EXPECT_GT(parsed, 100);
}

}  // namespace
}  // namespace tessera
