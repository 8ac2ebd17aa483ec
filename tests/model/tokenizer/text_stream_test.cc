#include "model/tokenizer/text_stream.h"

#include <random>

#include <gtest/gtest.h>

#include "model/tokenizer/utf8.h"
#include "tests/model/tokenizer/tokenizer_dir.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

class TextStreamTest : public ::testing::Test {
 protected:
  void Open(const std::string& name) {
    ASSERT_OK_AND_ASSIGN(tokenizer_, Tokenizer::Load(std::string(TESSERA_TEST_DATA) + "/" + name));
  }
  int32_t Id(const std::string& token) const { return tokenizer_->IdOf(token).value(); }
  std::vector<int32_t> Encode(const std::string& text) const {
    return *tokenizer_->Encode(text, {});
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(TextStreamTest, HoldsACharacterUntilItsLastByteComes) {
  Open("tiny-qwen2");
  TextStream stream(tokenizer_.get(), DecodeSpecial::kKeep);
  EXPECT_EQ(stream.Feed(Id("\u00f0")), "");            // byte F0 of U+1F642
  EXPECT_EQ(stream.Feed(Id("\u0141")), "");            // 9F
  EXPECT_EQ(stream.Feed(Id("\u013b")), "");            // 99
  EXPECT_EQ(stream.Feed(Id("\u0124")), "\U0001f642");  // 82
  EXPECT_EQ(stream.Flush(), "");
}

TEST_F(TextStreamTest, FlushReplacesAnIncompleteCharacterOnce) {
  Open("tiny-qwen2");
  TextStream stream(tokenizer_.get(), DecodeSpecial::kKeep);
  EXPECT_EQ(stream.Feed(Id("\u00f0")), "");
  EXPECT_EQ(stream.Feed(Id("\u0141")), "");
  EXPECT_EQ(stream.Flush(), kReplacementCharacter);
}

TEST_F(TextStreamTest, BrokenCharacterIsReplacedWhenTheNextTokenShowsIt) {
  Open("tiny-qwen2");
  TextStream stream(tokenizer_.get(), DecodeSpecial::kKeep);
  EXPECT_EQ(stream.Feed(Id("\u00f0")), "");
  EXPECT_EQ(stream.Feed(Id("!")), std::string(kReplacementCharacter) + "!");
}

TEST_F(TextStreamTest, ByteTokensComeWhenTheirRunEnds) {
  Open("tokenizers/llama2_metaspace");
  TextStream stream(tokenizer_.get(), DecodeSpecial::kKeep);
  EXPECT_EQ(stream.Feed(Id("a")), "a");
  for (const char* byte : {"<0xE4>", "<0xBD>", "<0xA0>"}) EXPECT_EQ(stream.Feed(Id(byte)), "");
  EXPECT_EQ(stream.Feed(Id("a")),
            "\u4f60"
            "a");
}

TEST_F(TextStreamTest, EveryByteOfAnInvalidRunIsReplaced) {
  Open("tokenizers/llama2_metaspace");
  TextStream stream(tokenizer_.get(), DecodeSpecial::kKeep);
  for (const char* byte : {"<0xE4>", "<0xBD>", "<0xA0>", "<0xFF>"})
    EXPECT_EQ(stream.Feed(Id(byte)), "");
  std::string four;
  for (int i = 0; i < 4; ++i) four += kReplacementCharacter;
  EXPECT_EQ(stream.Flush(), four);
}

TEST_F(TextStreamTest, FirstSpaceIsCutOnlyAtTheStartOfTheText) {
  Open("tokenizers/llama2_metaspace");
  TextStream stream(tokenizer_.get(), DecodeSpecial::kKeep);
  EXPECT_EQ(stream.Feed(Id("\u2581the")), "the");
  EXPECT_EQ(stream.Feed(Id("\u2581the")), " the");
}

TEST_F(TextStreamTest, PrimedStreamKeepsTheSpaceOfItsFirstToken) {
  for (const char* name :
       {"tokenizers/llama2_metaspace", "tokenizers/llama2_legacy", "tokenizers/metaspace_split"}) {
    Open(name);
    TextStream stream(tokenizer_.get(), DecodeSpecial::kSkip);
    stream.Prime(Encode("Hello"));
    EXPECT_EQ(stream.Feed(Id("\u2581the")), " the") << name;
  }
}

TEST_F(TextStreamTest, SkippedTokensAreNoStartOfTheText) {
  Open("tokenizers/metaspace_split");
  TextStream stream(tokenizer_.get(), DecodeSpecial::kSkip);
  stream.Prime({{Id("<s>")}});
  EXPECT_EQ(stream.Feed(Id("\u2581the")), "the");
}

TEST_F(TextStreamTest, PrimingDropsTheRunOfBytesThatEndsThePrompt) {
  Open("tokenizers/llama2_metaspace");
  TextStream stream(tokenizer_.get(), DecodeSpecial::kKeep);
  stream.Prime(Encode("x \u4f60"));
  EXPECT_EQ(stream.Feed(Id("a")), "a");
}

TEST_F(TextStreamTest, CharacterBegunByThePromptBelongsToTheText) {
  Open("tokenizers/llama2_metaspace");
  TextStream stream(tokenizer_.get(), DecodeSpecial::kKeep);
  const std::vector<int32_t> prompt = {Id("a"), Id("<0xC3>"), Id("<0xA9>"), Id("<0xE4>"),
                                       Id("<0xBD>")};
  stream.Prime(prompt);
  EXPECT_EQ(stream.Feed(Id("<0xA0>")), "");
  EXPECT_EQ(stream.Feed(Id("a")),
            "\u4f60"
            "a");
}

// For every tokenizer and random ids: whole characters, and the same text as Decode.
TEST_F(TextStreamTest, RandomIdsJoinToTheirDecodedText) {
  std::mt19937 random(3);
  for (const char* name : {"tiny-qwen2", "tokenizers/gpt2", "tokenizers/llama2_legacy",
                           "tokenizers/metaspace_split"}) {
    Open(name);
    std::uniform_int_distribution<int32_t> any(0,
                                               static_cast<int32_t>(tokenizer_->vocabulary_size()));
    // Half of the ids are low, where single bytes are.
    std::uniform_int_distribution<int32_t> low(0, 260);
    for (int round = 0; round < 300; ++round) {
      std::vector<int32_t> ids(static_cast<size_t>(round % 20));
      for (int32_t& id : ids) id = random() % 2 == 0 ? any(random) : low(random);
      TextStream stream(tokenizer_.get(), DecodeSpecial::kSkip);
      std::string text;
      for (const int32_t id : ids) {
        const std::string piece = stream.Feed(id);
        ASSERT_EQ(ValidUtf8Prefix(piece), piece.size());
        text += piece;
      }
      text += stream.Flush();
      ASSERT_EQ(text, tokenizer_->Decode(ids, DecodeSpecial::kSkip));
    }
  }
}

}  // namespace
}  // namespace tessera
