#include "coordinator/model_text.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::StatusIs;

// A directory with tiny-qwen2's tokenizer, whose special tokens are <|endoftext|>, <|im_start|> and
// <|im_end|>, and a tokenizer_config.json of the test's.
class ModelTextTest : public ::testing::Test {
 protected:
  ModelTextTest() : dir_(absl::StrCat(::testing::TempDir(), "/model_text_", getpid())) {
    fs::create_directories(dir_);
    fs::copy_file(TESSERA_TEST_DATA "/tiny-qwen2/tokenizer.json", dir_ + "/tokenizer.json",
                  fs::copy_options::overwrite_existing);
    Config("{}");
  }
  ~ModelTextTest() override { fs::remove_all(dir_); }
  void Config(const std::string& json) { std::ofstream(dir_ + "/tokenizer_config.json") << json; }

  const std::string dir_;
  const std::vector<ChatMessage> hello_ = {{"user", "hello"}};
};

TEST_F(ModelTextTest, NamedTemplateWhoseTokensAreThereChats) {
  ASSERT_OK_AND_ASSIGN(const ModelText text, ModelText::Load(dir_, "chatml"));
  EXPECT_EQ(text.chat_template(), "chatml");
  EXPECT_OK(text.EncodeChat(hello_));
}

TEST_F(ModelTextTest, NamedTemplateWithATokenThatIsMissingFailsAndNamesIt) {
  Config(R"({"bos_token": "<|endoftext|>"})");
  EXPECT_THAT(ModelText::Load(dir_, "llama3"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("chat template llama3 prints <|start_header_id|>"),
                             HasSubstr(dir_ + "/tokenizer.json"))));
}

TEST_F(ModelTextTest, NamedTemplateWithAnUnknownBosFailsAndNamesIt) {
  Config(R"({"bos_token": "<s>", "eos_token": "<|endoftext|>"})");
  EXPECT_THAT(ModelText::Load(dir_, "llama2"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("prints <s>, which")));
}

TEST_F(ModelTextTest, NamedTemplateWithoutABosFails) {
  EXPECT_THAT(ModelText::Load(dir_, "llama3"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("prints bos_token")));
}

TEST_F(ModelTextTest, NamedTemplateWithoutATokenizerFails) {
  fs::remove(dir_ + "/tokenizer.json");
  EXPECT_THAT(ModelText::Load(dir_, "chatml"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("tokenizer.json")));
}

TEST_F(ModelTextTest, UnknownTemplateIsInvalid) {
  EXPECT_THAT(ModelText::Load(dir_, "lama3"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lama3")));
}

// llama3's program: a model that has it by mistake still continues text.
TEST_F(ModelTextTest, OwnTemplateWithATokenThatIsMissingRefusesOnlyChats) {
  std::ofstream(dir_ + "/chat_template.jinja")
      << "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
         "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | "
         "trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content "
         "%}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ "
         "'<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}";
  Config(R"({"bos_token": "<|endoftext|>"})");
  ASSERT_OK_AND_ASSIGN(const ModelText text, ModelText::Load(dir_, ""));
  EXPECT_EQ(text.chat_template(), "");
  EXPECT_OK(text.Encode("hello", SpecialAffixes::kNone));
  EXPECT_THAT(text.EncodeChat(hello_), StatusIs(absl::StatusCode::kFailedPrecondition,
                                                HasSubstr("prints <|start_header_id|>")));
}

}  // namespace
}  // namespace tessera
