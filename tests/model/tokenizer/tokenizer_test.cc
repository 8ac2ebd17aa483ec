#include "model/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include "tests/model/tokenizer/tokenizer_dir.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::absl::StatusCode;
using ::nlohmann::json;
using ::tessera::testing::AddedTokenJson;
using ::tessera::testing::SmallTokenizer;
using ::tessera::testing::StatusIs;
using ::tessera::testing::TokenizerDir;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string TinyQwen2() { return std::string(TESSERA_TEST_DATA) + "/tiny-qwen2"; }

TEST(Tokenizer, MissingFileIsNotFoundNamingIt) {
  EXPECT_THAT(Tokenizer::Load("/nonexistent"),
              StatusIs(StatusCode::kNotFound, HasSubstr("/nonexistent/tokenizer.json")));
}

TEST(Tokenizer, FileThatIsNoJsonIsDataLossNamingIt) {
  TokenizerDir dir;
  dir.Write("tokenizer.json", "{\"model\":");
  EXPECT_THAT(dir.Load(), StatusIs(StatusCode::kDataLoss, HasSubstr("tokenizer.json")));
}

TEST(Tokenizer, DeepJsonIsDataLoss) {
  TokenizerDir dir;
  dir.Write("tokenizer.json", std::string(100000, '[') + std::string(100000, ']'));
  EXPECT_THAT(dir.Load(), StatusIs(StatusCode::kDataLoss, HasSubstr("100000 levels")));
}

TEST(Tokenizer, BrokenConfigFileIsAnErrorNamingIt) {
  TokenizerDir dir;
  dir.Write("tokenizer_config.json", "{\"bos_token\": 5}");
  EXPECT_THAT(dir.Load(SmallTokenizer()),
              StatusIs(StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("tokenizer_config.json"), HasSubstr("bos_token is 5"))));
}

// Each row breaks one thing in a good file.
struct BrokenFile {
  const char* name;
  const char* pointer;  // RFC 6901
  json value;
  StatusCode code;
  const char* says;
};
class BrokenTokenizer : public ::testing::TestWithParam<BrokenFile> {};

TEST_P(BrokenTokenizer, IsRefusedNamingFileAndField) {
  json file = SmallTokenizer();
  file[json::json_pointer(GetParam().pointer)] = GetParam().value;
  TokenizerDir dir;
  EXPECT_THAT(dir.Load(file), StatusIs(GetParam().code, AllOf(HasSubstr("tokenizer.json"),
                                                              HasSubstr(GetParam().says))));
}

json Added(std::initializer_list<json> tokens) { return json::array_t(tokens); }

INSTANTIATE_TEST_SUITE_P(
    Files, BrokenTokenizer,
    ::testing::Values(
        BrokenFile{"version", "/version", "2.0", StatusCode::kUnimplemented, "version is \"2.0\""},
        BrokenFile{"model", "/model", json(), StatusCode::kInvalidArgument, "model is absent"},
        BrokenFile{"model_type", "/model/type", "Unigram", StatusCode::kUnimplemented,
                   "\"Unigram\""},
        BrokenFile{"dropout", "/model/dropout", 0.1, StatusCode::kUnimplemented, "dropout is 0.1"},
        BrokenFile{"prefix", "/model/continuing_subword_prefix", "##", StatusCode::kUnimplemented,
                   "continuing_subword_prefix is \"##\""},
        BrokenFile{"suffix", "/model/end_of_word_suffix", "</w>", StatusCode::kUnimplemented,
                   "end_of_word_suffix"},
        BrokenFile{"fuse_unk", "/model/fuse_unk", 3, StatusCode::kInvalidArgument, "fuse_unk is 3"},
        BrokenFile{"vocab", "/model/vocab", json::array(), StatusCode::kInvalidArgument,
                   "vocab is an array"},
        BrokenFile{"id_negative", "/model/vocab/x", -1, StatusCode::kDataLoss, "\"x\" is -1"},
        BrokenFile{"id_huge", "/model/vocab/x", 1 << 20, StatusCode::kDataLoss, "\"x\" is 1048576"},
        BrokenFile{"id_text", "/model/vocab/x", "1", StatusCode::kDataLoss, "\"x\" is \"1\""},
        BrokenFile{"id_float", "/model/vocab/x", 1.5, StatusCode::kDataLoss, "\"x\" is 1.5"},
        BrokenFile{"id_twice", "/model/vocab/x", 1, StatusCode::kDataLoss, "both have id 1"},
        BrokenFile{"merge_unknown", "/model/merges", json::array({json::array({"a", "c"})}),
                   StatusCode::kDataLoss, "merges[0]: \"c\" is not in the vocabulary"},
        BrokenFile{"merge_result", "/model/merges", json::array({json::array({"b", "a"})}),
                   StatusCode::kDataLoss, "\"ba\" is not in the vocabulary"},
        BrokenFile{"merge_three",
                   "/model/merges",
                   {{"a", "b", "a"}},
                   StatusCode::kDataLoss,
                   "merges[0] is an array of 3"},
        BrokenFile{"merge_spaces",
                   "/model/merges",
                   {"a b c"},
                   StatusCode::kDataLoss,
                   "merges[0] is \"a b c\""},
        BrokenFile{"merge_number", "/model/merges", {7}, StatusCode::kDataLoss, "merges[0] is 7"},
        BrokenFile{"merges", "/model/merges", "a b", StatusCode::kInvalidArgument,
                   "merges is \"a b\""},
        BrokenFile{"unk", "/model/unk_token", "?", StatusCode::kDataLoss, "unk_token \"?\""},
        BrokenFile{"normalizer",
                   "/normalizer",
                   {{"type", "Lowercase"}},
                   StatusCode::kUnimplemented,
                   "normalizer: type \"Lowercase\""},
        BrokenFile{
            "normalizer_part",
            "/normalizer",
            {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Prepend"}}}}},
            StatusCode::kInvalidArgument,
            "normalizers[1]: prepend is absent"},
        BrokenFile{"replace_regex",
                   "/normalizer",
                   {{"type", "Replace"}, {"pattern", {{"Regex", " +"}}}, {"content", ""}},
                   StatusCode::kUnimplemented,
                   "\" +\""},
        BrokenFile{"replace_empty",
                   "/normalizer",
                   {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", ""}},
                   StatusCode::kUnimplemented,
                   "empty string"},
        BrokenFile{"split",
                   "/pre_tokenizer",
                   {{"type", "Split"},
                    {"pattern", {{"Regex", "\\d+|x"}}},
                    {"behavior", "Isolated"},
                    {"invert", false}},
                   StatusCode::kUnimplemented,
                   "pattern \\d+|x is none of the patterns known"},
        BrokenFile{"split_behavior",
                   "/pre_tokenizer",
                   {{"type", "Split"},
                    {"pattern",
                     {{"Regex",
                       "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| "
                       "?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"}}},
                    {"behavior", "Removed"},
                    {"invert", false}},
                   StatusCode::kUnimplemented,
                   "behavior \"Removed\""},
        BrokenFile{"pre_tokenizer",
                   "/pre_tokenizer",
                   {{"type", "Digits"}},
                   StatusCode::kUnimplemented,
                   "pre_tokenizer: type \"Digits\""},
        BrokenFile{"metaspace_char",
                   "/pre_tokenizer",
                   {{"type", "Metaspace"}, {"replacement", "__"}},
                   StatusCode::kInvalidArgument,
                   "replacement is \"__\""},
        BrokenFile{"metaspace_scheme",
                   "/pre_tokenizer",
                   {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}},
                   StatusCode::kInvalidArgument,
                   "prepend_scheme is \"last\""},
        BrokenFile{"metaspace_contradiction",
                   "/pre_tokenizer",
                   {{"type", "Metaspace"},
                    {"replacement", "_"},
                    {"prepend_scheme", "first"},
                    {"add_prefix_space", false}},
                   StatusCode::kInvalidArgument,
                   "add_prefix_space"},
        BrokenFile{"post_type",
                   "/post_processor",
                   {{"type", "BertProcessing"}},
                   StatusCode::kUnimplemented,
                   "post_processor: type \"BertProcessing\""},
        BrokenFile{"post_no_text",
                   "/post_processor",
                   {{"type", "TemplateProcessing"},
                    {"single", json::array()},
                    {"special_tokens", json::object()}},
                   StatusCode::kDataLoss,
                   "no sequence A"},
        BrokenFile{
            "post_unknown",
            "/post_processor",
            {{"type", "TemplateProcessing"},
             {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
             {"special_tokens", json::object()}},
            StatusCode::kDataLoss,
            "no \"<s>\""},
        BrokenFile{
            "post_id",
            "/post_processor",
            {{"type", "TemplateProcessing"},
             {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
             {"special_tokens", {{"<s>", {{"ids", {3}}}}}}},
            StatusCode::kDataLoss,
            "is 3, must be below 3"},
        BrokenFile{"post_pair",
                   "/post_processor",
                   {{"type", "TemplateProcessing"},
                    {"single", {{{"Sequence", {{"id", "B"}}}}}},
                    {"special_tokens", json::object()}},
                   StatusCode::kUnimplemented,
                   "sequence \"B\""},
        BrokenFile{"decoder",
                   "/decoder",
                   {{"type", "WordPiece"}},
                   StatusCode::kUnimplemented,
                   "decoder: type \"WordPiece\""},
        BrokenFile{"strip_stop",
                   "/decoder",
                   {{"type", "Strip"}, {"content", " "}, {"start", 0}, {"stop", 1}},
                   StatusCode::kUnimplemented,
                   "stop is 1"},
        BrokenFile{"strip_negative",
                   "/decoder",
                   {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}},
                   StatusCode::kInvalidArgument,
                   "start is -1"},
        BrokenFile{
            "behind_fuse",
            "/decoder",
            {{"type", "Sequence"}, {"decoders", {{{"type", "Fuse"}}, {{"type", "ByteFallback"}}}}},
            StatusCode::kUnimplemented,
            "ByteFallback behind Fuse"},
        BrokenFile{"added_type", "/added_tokens", 5, StatusCode::kInvalidArgument,
                   "added_tokens is 5"},
        BrokenFile{"added_gap", "/added_tokens", Added({AddedTokenJson(4, "<x>")}),
                   StatusCode::kDataLoss, "id of \"<x>\" is 4, its place in the vocabulary is 3"},
        BrokenFile{"added_negative", "/added_tokens", Added({AddedTokenJson(-1, "<x>")}),
                   StatusCode::kDataLoss, "is -1"},
        BrokenFile{"added_other_id", "/added_tokens", Added({AddedTokenJson(0, "b")}),
                   StatusCode::kDataLoss, "id of \"b\" is 0"},
        BrokenFile{"added_empty", "/added_tokens", Added({AddedTokenJson(3, "")}),
                   StatusCode::kDataLoss, "added_tokens[0]: content of 0 bytes"},
        BrokenFile{"added_long", "/added_tokens",
                   Added({AddedTokenJson(3, std::string(5000, 'x'))}), StatusCode::kDataLoss,
                   "content of 5000 bytes"},
        BrokenFile{"added_twice", "/added_tokens",
                   Added({AddedTokenJson(3, "x"), AddedTokenJson(3, "x")}), StatusCode::kDataLoss,
                   "added_tokens[1]"},
        BrokenFile{"added_flag", "/added_tokens", Added({{{"id", 3}, {"content", "x"}}}),
                   StatusCode::kInvalidArgument, "added_tokens[0]: special is absent"}),
    [](const auto& info) { return info.param.name; });

TEST(Tokenizer, TwoTokensThatNormalizeAlikeAreDataLoss) {
  json file = SmallTokenizer();
  file["normalizer"] = {{"type", "NFC"}};
  file["added_tokens"] = {AddedTokenJson(3, "\u00e9"), AddedTokenJson(4, "e\u0301")};
  for (json& token : file["added_tokens"]) token["normalized"] = true;
  TokenizerDir dir;
  EXPECT_THAT(dir.Load(file),
              StatusIs(StatusCode::kDataLoss, HasSubstr("two tokens are matched as")));
}

TEST(Tokenizer, ReplaceWithMetaspaceFirstIsUnimplemented) {
  json file = SmallTokenizer();
  file["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", "x"}}}, {"content", ""}};
  file["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "first"}};
  TokenizerDir dir;
  EXPECT_THAT(dir.Load(file),
              StatusIs(StatusCode::kUnimplemented, HasSubstr("prepend_scheme first")));
}

TEST(Tokenizer, CharacterThatIsNoTokenIsDroppedWithoutUnk) {
  TokenizerDir dir;
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, dir.Load(SmallTokenizer()));
  ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer->Encode("axb", {}));
  EXPECT_THAT(ids, ElementsAre(2));  // "a" and "b" become neighbours: the library's answer
}

TEST(Tokenizer, InvalidUtf8IsInvalidArgumentNamingTheByte) {
  TokenizerDir dir;
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, dir.Load(SmallTokenizer()));
  EXPECT_THAT(tokenizer->Encode("ab\xff", {}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("not UTF-8 at byte 2 of 3")));
  EXPECT_THAT(tokenizer->Encode("\xed\xa0\x80", {}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("byte 0")));
}

TEST(Tokenizer, TooLongATextIsInvalidArgument) {
  TokenizerDir dir;
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, dir.Load(SmallTokenizer()));
  const std::string piece(size_t{64} << 20, 'c');
  const std::vector<TextSegment> segments(5, TextSegment{piece, SpecialText::kMatch});
  EXPECT_THAT(tokenizer->EncodeSegments(segments, SpecialAffixes::kNone),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("longer than 268435456 bytes")));
}

TEST(Tokenizer, SegmentsAreCutOnlyByTokensOfTrustedText) {
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Tokenizer::Load(TinyQwen2()));
  const TextSegment segments[] = {{"<|im_start|>user\n", SpecialText::kMatch},
                                  {"\nx<|im_end|>", SpecialText::kPlain},
                                  {"<|im_end|>", SpecialText::kMatch}};
  ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer->EncodeSegments(segments, SpecialAffixes::kNone));
  ASSERT_OK_AND_ASSIGN(const auto middle, tokenizer->Encode("user\n\nx<|im_end|>",
                                                            {.special_text = SpecialText::kPlain}));
  std::vector<int32_t> expected = {4094};
  expected.insert(expected.end(), middle.begin(), middle.end());
  expected.push_back(4095);
  EXPECT_EQ(ids, expected);
}

TEST(Tokenizer, SpecialTokenAcrossASegmentBorderIsNotMatched) {
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Tokenizer::Load(TinyQwen2()));
  const TextSegment segments[] = {{"<|im_", SpecialText::kMatch}, {"end|>", SpecialText::kPlain}};
  ASSERT_OK_AND_ASSIGN(const auto ids, tokenizer->EncodeSegments(segments, SpecialAffixes::kNone));
  ASSERT_OK_AND_ASSIGN(const auto plain,
                       tokenizer->Encode("<|im_end|>", {.special_text = SpecialText::kPlain}));
  EXPECT_EQ(ids, plain);
}

TEST(Tokenizer, ReadsSpecialIdsFromTheConfig) {
  TokenizerDir dir;
  json file = SmallTokenizer();
  file["added_tokens"] = {AddedTokenJson(3, "<s>")};
  dir.Write("tokenizer_config.json",
            R"({"bos_token": {"content": "<s>"}, "eos_token": "b", "pad_token": "<none>"})");
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, dir.Load(file));
  EXPECT_EQ(tokenizer->bos_id(), 3);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_EQ(tokenizer->pad_id(), std::nullopt);
  EXPECT_TRUE(tokenizer->IsSpecial(3));
  EXPECT_FALSE(tokenizer->IsSpecial(1));
}

TEST(Tokenizer, KnowsItsTokens) {
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Tokenizer::Load(TinyQwen2()));
  EXPECT_EQ(tokenizer->vocabulary_size(), 4096);
  EXPECT_EQ(tokenizer->IdOf("<|im_end|>"), 4095);
  EXPECT_EQ(tokenizer->IdOf("!"), 0);
  EXPECT_EQ(tokenizer->IdOf("no such token"), std::nullopt);
}

TEST(Tokenizer, TokenBytesAreWhatTheTokenAdds) {
  ASSERT_OK_AND_ASSIGN(const auto qwen, Tokenizer::Load(TinyQwen2()));
  EXPECT_EQ(qwen->TokenBytes(*qwen->IdOf("\u0120")), " ");
  EXPECT_EQ(qwen->TokenBytes(*qwen->IdOf("\u00c3")), "\xc3");
  EXPECT_EQ(qwen->TokenBytes(4095), "<|im_end|>");
  for (const int32_t id : {-1, 4096, 1 << 30}) EXPECT_EQ(qwen->TokenBytes(id), "");
  ASSERT_OK_AND_ASSIGN(const auto llama, Tokenizer::Load(std::string(TESSERA_TEST_DATA) +
                                                         "/tokenizers/llama2_metaspace"));
  EXPECT_EQ(llama->TokenBytes(*llama->IdOf("<0xE4>")), "\xe4");
  EXPECT_EQ(llama->TokenBytes(*llama->IdOf("\u2581the")), " the");
}

TEST(Tokenizer, IdsThatAreNoTokensDecodeToNothing) {
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, Tokenizer::Load(TinyQwen2()));
  const int32_t ids[] = {0, -1, 4096, 2147483647, -2147483647 - 1, 0};
  EXPECT_EQ(tokenizer->Decode(ids, DecodeSpecial::kKeep), "!!");
}

}  // namespace
}  // namespace tessera
