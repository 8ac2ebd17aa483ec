// A megabyte of what is worst for each stage. A quadratic step would take minutes to hours here, so
// that the suite's time limit is the check; ids are compared where they are easy to know.
#include <memory>

#include <gtest/gtest.h>

#include "model/tokenizer/nfc.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/model/tokenizer/tokenizer_dir.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::nlohmann::json;

std::string Repeat(const std::string& unit, size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += unit;
  return text;
}

class LongTextRoundTrip : public ::testing::TestWithParam<const char*> {};

TEST_P(LongTextRoundTrip, DecodesToItself) {
  ASSERT_OK_AND_ASSIGN(const auto tokenizer,
                       Tokenizer::Load(std::string(TESSERA_TEST_DATA) + "/" + GetParam()));
  for (const char* unit : {"a", " ", "\n", "ab", "  x", "'s", "!", "1", "\u4f60", "\u3000", " \n",
                           "\t", "<|im_start|>", "<", "<|im_start|", "\u00e9 "}) {
    const std::string text = Repeat(unit, 1000000);
    ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer->Encode(text, {}));
    EXPECT_EQ(tokenizer->Decode(ids, DecodeSpecial::kKeep) == text, true) << "unit " << unit;
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, LongTextRoundTrip,
                         ::testing::Values("tiny-qwen2", "tokenizers/llama3",
                                           "tokenizers/llama2_legacy"),
                         [](const auto& info) { return "Case" + std::to_string(info.index); });

// The only piece is the whole text and every pair merges, level by level.
TEST(LongText, AllMergingTextIsOneHeapNotManyScans) {
  json file = ::tessera::testing::SmallTokenizer();
  file["model"]["vocab"] = {{"a", 0}};
  file["model"]["merges"] = json::array();
  std::string token = "a";
  for (int level = 1; level <= 16; ++level) {
    file["model"]["merges"].push_back({token, token});
    token += token;
    file["model"]["vocab"][token] = level;
  }
  ::tessera::testing::TokenizerDir dir;
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, dir.Load(file));
  ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer->Encode(std::string(1 << 20, 'a'), {}));
  EXPECT_EQ(ids, std::vector<int32_t>(16, 16));
}

TEST(LongText, MarksInTheWorstOrderAreSortedInTime) {
  // U+0301 has combining class 230, U+0316 has 220: all of the second half moves to the front.
  const std::string text = "a" + Repeat("\u0301", 500000) + Repeat("\u0316", 500000);
  const std::string normal = NormalizeNfc(text);
  // "a" composes with the first acute; the graves below stand between in the sorted order.
  EXPECT_EQ(normal, "\u00e1" + Repeat("\u0316", 500000) + Repeat("\u0301", 499998));
}

TEST(LongText, SpacesThatAreTokensAreScannedOnce) {
  json file = ::tessera::testing::SmallTokenizer();
  for (const char* content : {" ", "\t"}) {
    json token = ::tessera::testing::AddedTokenJson(
        3 + static_cast<int>(file["added_tokens"].size()), content);
    token["rstrip"] = true;
    token["lstrip"] = content[0] == '\t';
    file["added_tokens"].push_back(token);
  }
  ::tessera::testing::TokenizerDir dir;
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, dir.Load(file));
  ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer->Encode(std::string(1000000, ' '), {}));
  EXPECT_EQ(ids.size(), 1000000u);
  EXPECT_OK(tokenizer->Encode(Repeat(" \t", 1000000), {}));
}

TEST(LongText, NestedAddedTokensAreFoundInOnePass) {
  json file = ::tessera::testing::SmallTokenizer();
  file["added_tokens"] = {::tessera::testing::AddedTokenJson(3, std::string(4000, 'x') + "y"),
                          ::tessera::testing::AddedTokenJson(4, "x")};
  ::tessera::testing::TokenizerDir dir;
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, dir.Load(file));
  ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer->Encode(std::string(1000000, 'x') + "y", {}));
  std::vector<int32_t> expected(996000, 4);
  expected.push_back(3);
  EXPECT_EQ(ids, expected);
}

}  // namespace
}  // namespace tessera
