#include "model/generation_config.h"

#include <string>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::StatusIs;

constexpr absl::string_view kFile = "generation_config.json";

ModelConfig SmallConfig() {
  ModelConfig config;
  config.vocab = 1000;
  config.eos_ids = {7};
  config.bos_id = 5;
  return config;
}

absl::StatusOr<GenerationConfig> Parse(absl::string_view text) {
  return ParseGenerationConfig(text, kFile, SmallConfig());
}

// The fields and values of Qwen2.5's instruct repositories (docs/formats.md), with small ids.
TEST(ParseGenerationConfig, ReadsTheInstructFileOfQwen) {
  ASSERT_OK_AND_ASSIGN(const GenerationConfig config, Parse(R"({
      "bos_token_id": 643, "pad_token_id": 643, "do_sample": true, "eos_token_id": [645, 643],
      "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
      "transformers_version": "4.37.0"})"));
  EXPECT_EQ(config.temperature, 0.7);
  EXPECT_EQ(config.top_p, 0.8);
  EXPECT_EQ(config.top_k, 20);
  EXPECT_EQ(config.min_p, 0.0);
  EXPECT_EQ(config.repetition_penalty, 1.05);
  EXPECT_EQ(config.max_new_tokens, std::nullopt);
  EXPECT_THAT(config.eos_ids, ElementsAre(645, 643));
  EXPECT_EQ(config.bos_id, 643);
}

TEST(ParseGenerationConfig, IsGreedyWithoutDoSample) {
  ASSERT_OK_AND_ASSIGN(const GenerationConfig absent, Parse(R"({"temperature": 0.7})"));
  EXPECT_EQ(absent.temperature, 0.0);
  ASSERT_OK_AND_ASSIGN(const GenerationConfig off,
                       Parse(R"({"temperature": 0.7, "do_sample": false})"));
  EXPECT_EQ(off.temperature, 0.0);
}

TEST(ParseGenerationConfig, DoSampleAloneIsTemperatureOne) {
  ASSERT_OK_AND_ASSIGN(const GenerationConfig config, Parse(R"({"do_sample": true})"));
  EXPECT_EQ(config.temperature, 1.0);
  EXPECT_EQ(config.top_p, 1.0);
  EXPECT_EQ(config.top_k, 0);
}

TEST(ParseGenerationConfig, KeepsRepetitionPenaltyWhenGreedy) {
  ASSERT_OK_AND_ASSIGN(const GenerationConfig config, Parse(R"({"repetition_penalty": 1.1})"));
  EXPECT_EQ(config.temperature, 0.0);
  EXPECT_EQ(config.repetition_penalty, 1.1);
}

TEST(ParseGenerationConfig, ReadsMinPAndMaxNewTokens) {
  ASSERT_OK_AND_ASSIGN(const GenerationConfig config,
                       Parse(R"({"min_p": 0.05, "max_new_tokens": 2048})"));
  EXPECT_EQ(config.min_p, 0.05);
  EXPECT_EQ(config.max_new_tokens, 2048);
}

TEST(ParseGenerationConfig, OneEosIdReplacesThatOfTheModelConfig) {
  ASSERT_OK_AND_ASSIGN(const GenerationConfig config, Parse(R"({"eos_token_id": 9})"));
  EXPECT_THAT(config.eos_ids, ElementsAre(9));
}

TEST(ParseGenerationConfig, AbsentIdsAreTheModelConfigs) {
  ASSERT_OK_AND_ASSIGN(const GenerationConfig config,
                       Parse(R"({"eos_token_id": null, "temperature": null})"));
  EXPECT_THAT(config.eos_ids, ElementsAre(7));
  EXPECT_EQ(config.bos_id, 5);
}

TEST(ParseGenerationConfig, RepeatedEosIdsAreOne) {
  ASSERT_OK_AND_ASSIGN(const GenerationConfig config, Parse(R"({"eos_token_id": [9, 8, 9]})"));
  EXPECT_THAT(config.eos_ids, ElementsAre(9, 8));
}

TEST(ParseGenerationConfig, BadValuesAreNamed) {
  const struct {
    std::string field;
    std::string value;
  } cases[] = {
      {"temperature", "-0.1"},
      {"temperature", "101"},
      {"temperature", "\"hot\""},
      {"top_p", "0"},
      {"top_p", "1.01"},
      {"min_p", "-0.01"},
      {"min_p", "1.5"},
      {"top_k", "-1"},
      {"top_k", "2147483648"},
      {"top_k", "20.5"},
      {"repetition_penalty", "0"},
      {"repetition_penalty", "1e9"},
      {"max_new_tokens", "0"},
      {"max_new_tokens", "1e3"},
      {"do_sample", "1"},
      {"eos_token_id", "2147483648"},
      {"eos_token_id", "[1, -1]"},
      {"eos_token_id", "\"</s>\""},
      {"eos_token_id", "[[1]]"},
      {"bos_token_id", "-2"},
  };
  for (const auto& [field, value] : cases) {
    EXPECT_THAT(Parse(absl::StrCat("{\"", field, "\": ", value, "}")),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr(std::string(kFile)), HasSubstr(field))))
        << field << " " << value;
  }
}

TEST(ParseGenerationConfig, IdsOutsideTheVocabularyCountAsAbsent) {
  ASSERT_OK_AND_ASSIGN(const GenerationConfig some,
                       Parse(R"({"eos_token_id": [1000, 9], "bos_token_id": 1000})"));
  EXPECT_THAT(some.eos_ids, ElementsAre(9));
  EXPECT_EQ(some.bos_id, 5);
  ASSERT_OK_AND_ASSIGN(const GenerationConfig none, Parse(R"({"eos_token_id": 1000})"));
  EXPECT_THAT(none.eos_ids, ElementsAre(7));
}

TEST(ParseGenerationConfig, TopKMayPassTheVocabulary) {
  ASSERT_OK_AND_ASSIGN(const GenerationConfig config, Parse(R"({"top_k": 1001})"));
  EXPECT_EQ(config.top_k, 1001);
}

TEST(ParseGenerationConfig, TooManyEosIdsAreInvalid) {
  std::string ids = "0";
  for (int i = 0; i < 1024; ++i) ids += ",0";
  EXPECT_THAT(Parse(absl::StrCat("{\"eos_token_id\": [", ids, "]}")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("has 1025 ids")));
}

TEST(ParseGenerationConfig, TextThatIsNotAnObjectIsInvalid) {
  for (const absl::string_view text : {"", "[]", "{", "7"})
    EXPECT_THAT(Parse(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(std::string(kFile))));
}

TEST(LoadGenerationConfig, ReadsTheFileOfADirectory) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig model, LoadModelConfig(TESSERA_TEST_DATA "/tiny-qwen2"));
  ASSERT_OK_AND_ASSIGN(const GenerationConfig config,
                       LoadGenerationConfig(TESSERA_TEST_DATA "/tiny-qwen2", model));
  EXPECT_EQ(config.temperature, 0.0);
  EXPECT_THAT(config.eos_ids, ElementsAre(4093));
}

TEST(LoadGenerationConfig, MissingFileLeavesTheModelConfigsIds) {
  ASSERT_OK_AND_ASSIGN(const GenerationConfig config,
                       LoadGenerationConfig(TESSERA_TEST_DATA "/no-such-model", SmallConfig()));
  EXPECT_EQ(config.temperature, 0.0);
  EXPECT_THAT(config.eos_ids, ElementsAre(7));
  EXPECT_EQ(config.bos_id, 5);
}

}  // namespace
}  // namespace tessera
