// The `tokenizers` library's own answers on hostile text; tools/make_tokenizer_data.py makes them.
#include <memory>

#include <gtest/gtest.h>

#include "model/file.h"
#include "model/json.h"
#include "model/tokenizer/text_stream.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

class TokenizerGolden : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string data = TESSERA_TEST_DATA;
    const std::string name = GetParam();
    const std::string golden_dir = data + "/tokenizers/" + name;
    ASSERT_OK_AND_ASSIGN(tokenizer_,
                         Tokenizer::Load(name == "tiny_qwen2" ? data + "/tiny-qwen2" : golden_dir));
    ASSERT_OK_AND_ASSIGN(const std::string text, ReadFile(golden_dir + "/golden.json", 1 << 20));
    ASSERT_OK_AND_ASSIGN(golden_, ParseJson(text, golden_dir));
    ASSERT_GT(golden_["cases"].size(), 200u);
  }
  static const json& Field(const json& item, const char* field, const char* same_as) {
    return item.contains(field) ? item[field] : item[same_as];
  }
  std::unique_ptr<Tokenizer> tokenizer_;
  json golden_;
};

TEST_P(TokenizerGolden, EncodesAsTheLibraryDoes) {
  for (const json& item : golden_["cases"]) {
    ASSERT_OK_AND_ASSIGN(const Ids ids, tokenizer_->Encode(item["text"].get<std::string>(), {}));
    EXPECT_EQ(ids, item["ids"].get<Ids>()) << item["text"];
  }
}

TEST_P(TokenizerGolden, AddsTheTemplatesTokensAsTheLibraryDoes) {
  for (const json& item : golden_["cases"]) {
    ASSERT_OK_AND_ASSIGN(const Ids ids, tokenizer_->Encode(item["text"].get<std::string>(),
                                                           {.affixes = SpecialAffixes::kAdd}));
    EXPECT_EQ(ids, Field(item, "template", "ids").get<Ids>()) << item["text"];
  }
}

TEST_P(TokenizerGolden, TakesSpecialTokensForPlainTextAsTheLibraryDoes) {
  for (const json& item : golden_["cases"]) {
    ASSERT_OK_AND_ASSIGN(const Ids ids, tokenizer_->Encode(item["text"].get<std::string>(),
                                                           {.special_text = SpecialText::kPlain}));
    EXPECT_EQ(ids, Field(item, "plain", "ids").get<Ids>()) << item["text"];
  }
}

TEST_P(TokenizerGolden, DecodesAsTheLibraryDoes) {
  for (const json& item : golden_["cases"]) {
    const Ids ids = Field(item, "template", "ids").get<Ids>();
    EXPECT_EQ(tokenizer_->Decode(ids, DecodeSpecial::kKeep), item["decoded"].get<std::string>());
    EXPECT_EQ(tokenizer_->Decode(ids, DecodeSpecial::kSkip),
              Field(item, "skipped", "decoded").get<std::string>());
  }
}

TEST_P(TokenizerGolden, StreamedPiecesJoinToTheDecodedText) {
  for (const json& item : golden_["cases"]) {
    TextStream stream(tokenizer_.get(), DecodeSpecial::kKeep);
    std::string text;
    for (const int32_t id : Field(item, "template", "ids").get<Ids>()) text += stream.Feed(id);
    text += stream.Flush();
    EXPECT_EQ(text, item["decoded"].get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, TokenizerGolden,
                         ::testing::Values("tiny_qwen2", "llama3", "qwen2_added", "gpt2",
                                           "llama2_legacy", "llama2_metaspace", "metaspace_split"));

}  // namespace
}  // namespace tessera
