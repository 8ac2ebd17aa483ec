#include "model/chat_template.h"

#include <filesystem>
#include <fstream>

#include <absl/strings/str_replace.h>
#include <gtest/gtest.h>

#include "model/file.h"
#include "model/json.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::absl::StatusCode;
using ::nlohmann::json;
using ::tessera::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Kind = ChatSegment::Kind;

const ChatTemplate::Tokens kTokens = {"<BOS>", "<EOS>"};
constexpr char kChatMl[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}";

std::string TinyQwen2() { return std::string(TESSERA_TEST_DATA) + "/tiny-qwen2"; }

// Rendered by transformers from the programs of real checkpoints (tools/make_chat_golden.py).
class ChatGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(ChatGolden, RendersAsTransformersDoes) {
  ASSERT_OK_AND_ASSIGN(const std::string text,
                       ReadFile(std::string(TESSERA_TEST_DATA) + "/chat/golden.json", 1 << 20));
  ASSERT_OK_AND_ASSIGN(const json golden, ParseJson(text, "golden.json"));
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chat, ChatTemplate::FromName(GetParam(), kTokens));
  int cases = 0;
  for (const json& item : golden["cases"]) {
    if (item["template"] != GetParam()) continue;
    ++cases;
    std::vector<ChatMessage> messages;
    for (const json& m : item["messages"]) messages.push_back({m[0], m[1]});
    RenderOptions options;
    options.add_generation_prompt = item["prompt"];
    options.enable_thinking = item["thinking"];
    options.today = golden["today"];
    ASSERT_OK_AND_ASSIGN(const auto segments, chat.Render(messages, options));
    EXPECT_EQ(JoinSegments(segments), item["text"].get<std::string>()) << item["messages"].dump();
  }
  EXPECT_GE(cases, 30);
}

INSTANTIATE_TEST_SUITE_P(Templates, ChatGolden,
                         ::testing::Values("chatml", "qwen1.5", "qwen2", "qwen2.5", "qwen3",
                                           "llama2", "llama3", "llama3.1", "llama3.2"));

// Every <...> that a plain conversation is rendered with, and nothing else.
TEST(ChatTemplate, ControlTokensAreThoseThatEveryConversationPrints) {
  const std::vector<ChatMessage> messages = {
      {"system", "s"}, {"user", "u"}, {"assistant", "a"}, {"user", "v"}};
  for (const std::string& name : ChatTemplate::Names()) {
    SCOPED_TRACE(name);
    ASSERT_OK_AND_ASSIGN(const ChatTemplate chat, ChatTemplate::FromName(name, kTokens));
    ASSERT_OK_AND_ASSIGN(const auto segments, chat.Render(messages, {}));
    std::string text = JoinSegments(segments);
    for (const std::string& token : ControlTokens(chat.style())) {
      EXPECT_NE(text.find(token), std::string::npos) << token;
      text = absl::StrReplaceAll(text, {{token, ""}});
    }
    text = absl::StrReplaceAll(text, {{"<<SYS>>", ""}, {"<</SYS>>", ""}});  // llama2's plain text
    EXPECT_EQ(text.find('<'), std::string::npos) << text;
  }
}

TEST(ChatTemplate, ReadsTheTinyCheckpointsJinjaFileAsQwen2) {
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chat, ChatTemplate::Load(TinyQwen2()));
  EXPECT_EQ(chat.name(), "qwen2");
  EXPECT_EQ(chat.style().default_system, "You are a helpful assistant.");
}

TEST(ChatTemplate, SeparatesContentFromControl) {
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chat, ChatTemplate::FromName("chatml", kTokens));
  const ChatMessage message = {"user", "<|im_end|>"};
  ASSERT_OK_AND_ASSIGN(const auto segments, chat.Render({&message, 1}, {}));
  EXPECT_THAT(segments,
              ElementsAre(ChatSegment{"<|im_start|>user\n", Kind::kTemplate},
                          ChatSegment{"<|im_end|>", Kind::kContent},
                          ChatSegment{"<|im_end|>\n<|im_start|>assistant\n", Kind::kTemplate}));
}

TEST(ChatTemplate, RecognisesOtherSpellingsOfOneProgram) {
  for (const char* text :
       {kChatMl,
        "{%- for message in messages %}\n    {{- \"<|im_start|>\" + message.role + \"\\n\" }}\n"
        "    {{- message.content + '<|im_end|>\\n' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
        "{# a comment #}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{{ message['content'] }}<|im_end|>\n{% endfor %}\n"
        "{% if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}",
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
        "{% endif %}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
        "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\\n' }}{% endif %}"}) {
    const auto chat = ChatTemplate::FromText(text, kTokens, "t");
    ASSERT_TRUE(chat.ok()) << chat.status();
    EXPECT_EQ(chat->name(), "chatml");
  }
}

// Each program writes something else than ChatML does, however little.
TEST(ChatTemplate, RefusesProgramsThatRenderDifferently) {
  const std::string known = kChatMl;
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = known;
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  for (const std::string& text :
       {with("message['content']", "message['content'] | trim"),
        with("'<|im_end|>' + '\n'", "'<|im_end|>'"), with("assistant\n", "assistant\n<think>\n"),
        with("messages %}", "messages[1:] %}"), with("{% endfor %}", "{% endfor %} "),
        with("{% endfor %}", "{% endfor %}\n\n"), with("message['role']", "'user'"),
        with("'<|im_start|>' + message", "'<|im_start|> ' + message"),
        with("add_generation_prompt", "true"), with("{% for", "{{ bos_token + 'x' }}{% for"),
        with("message['content']", "message['text']"),
        with("+ message['content'] +", "~ message['content'] +"), known + "{{ 'x' }}",
        std::string(""), std::string("{{ unclosed"), std::string("{% if 'x")}) {
    EXPECT_THAT(ChatTemplate::FromText(text, kTokens, "file"),
                StatusIs(StatusCode::kFailedPrecondition, HasSubstr("file: ")))
        << text;
  }
}

TEST(ChatTemplate, MessageAboutAnUnknownProgramOffersTheNames) {
  EXPECT_THAT(
      ChatTemplate::FromText("{{ messages }}", kTokens, "x/chat_template.jinja"),
      StatusIs(StatusCode::kFailedPrecondition,
               AllOf(HasSubstr("x/chat_template.jinja: the chat template is not recognised"),
                     HasSubstr("--chat-template NAME"), HasSubstr("chatml, qwen1.5, qwen2"),
                     HasSubstr("llama3.1"))));
}

TEST(ChatTemplate, TakesTheDefaultSystemPromptFromTheProgram) {
  constexpr char kText[] =
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
      "'<|im_start|>system\nSpeak \"Latin\" \\\\ only.\n<|im_end|>\n' }}{% endif "
      "%}{{'<|im_start|>' + "
      "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if "
      "add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chat, ChatTemplate::FromText(kText, kTokens, "t"));
  const ChatMessage message = {"user", "x"};
  ASSERT_OK_AND_ASSIGN(const auto segments, chat.Render({&message, 1}, {}));
  EXPECT_EQ(
      JoinSegments(segments),
      "<|im_start|>system\nSpeak \"Latin\" \\ only.\n<|im_end|>\n<|im_start|>user\nx<|im_end|>\n"
      "<|im_start|>assistant\n");
}

TEST(ChatTemplate, SystemPromptMustBeText) {
  constexpr char kText[] =
      "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
      "<|im_start|>system\nIt is {{ now }}<|im_end|>\n{% endif %}<|im_start|>{{ message.role }}\n"
      "{{ message.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
      "<|im_start|>assistant\n{% endif %}";
  EXPECT_THAT(ChatTemplate::FromText(kText, kTokens, "t"),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("not recognised")));
}

TEST(ChatTemplate, ChatMlMayBeginWithBos) {
  ASSERT_OK_AND_ASSIGN(
      const ChatTemplate chat,
      ChatTemplate::FromText("{{bos_token}}" + std::string(kChatMl), kTokens, "t"));
  const ChatMessage message = {"user", "x"};
  ASSERT_OK_AND_ASSIGN(const auto segments,
                       chat.Render({&message, 1}, {.add_generation_prompt = false}));
  EXPECT_EQ(JoinSegments(segments), "<BOS><|im_start|>user\nx<|im_end|>\n");
}

TEST(ChatTemplate, EveryNameHasATemplate) {
  for (const std::string& name : ChatTemplate::Names()) {
    SCOPED_TRACE(name);
    EXPECT_OK(ChatTemplate::FromName(name, kTokens));
  }
}

TEST(ChatTemplate, UnknownNameIsInvalidArgumentWithTheList) {
  EXPECT_THAT(ChatTemplate::FromName("alpaca", kTokens),
              StatusIs(StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("\"alpaca\""), HasSubstr("chatml, "))));
}

TEST(ChatTemplate, MissingBosIsFailedPreconditionWhereItIsPrinted) {
  EXPECT_THAT(ChatTemplate::FromName("llama3", {"", ""}),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("bos_token")));
  EXPECT_THAT(ChatTemplate::FromName("llama2", {"<s>", ""}),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("eos_token")));
  EXPECT_OK(ChatTemplate::FromName("qwen2.5", {"", ""}));
}

TEST(ChatTemplate, NoMessagesIsInvalidArgument) {
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chat, ChatTemplate::FromName("chatml", kTokens));
  EXPECT_THAT(chat.Render({}, {}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("at least one")));
}

TEST(ChatTemplate, UnknownRoleIsInvalidArgumentNamingTheMessage) {
  const ChatMessage messages[] = {{"user", "x"}, {"tool", "y"}};
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chatml, ChatTemplate::FromName("chatml", kTokens));
  EXPECT_THAT(chatml.Render(messages, {}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("message 1 has role \"tool\"")));
  ASSERT_OK_AND_ASSIGN(const ChatTemplate qwen, ChatTemplate::FromName("qwen2.5", kTokens));
  EXPECT_OK(qwen.Render(messages, {}));
}

TEST(ChatTemplate, Llama2RolesMustAlternate) {
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chat, ChatTemplate::FromName("llama2", kTokens));
  const ChatMessage messages[] = {{"system", "s"}, {"user", "x"}, {"user", "y"}};
  EXPECT_THAT(chat.Render(messages, {}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("message 2 has role user")));
}

class ChatTemplateLoad : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/tessera_chat_" +
           ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << text;
  }
  std::string dir_;
};

TEST_F(ChatTemplateLoad, NoTemplateIsFailedPreconditionThatOffersTheFlag) {
  EXPECT_THAT(ChatTemplate::Load(dir_),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("--chat-template NAME")));
  Write("tokenizer_config.json", R"({"bos_token": null})");
  EXPECT_THAT(ChatTemplate::Load(dir_),
              StatusIs(StatusCode::kFailedPrecondition, HasSubstr("no chat_template.jinja")));
}

TEST_F(ChatTemplateLoad, ReadsTheConfigsTemplateAndTokens) {
  Write("tokenizer_config.json", json({{"chat_template", "{{ bos_token }}" + std::string(kChatMl)},
                                       {"bos_token", {{"content", "<s>"}}}})
                                     .dump());
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chat, ChatTemplate::Load(dir_));
  EXPECT_EQ(chat.name(), "chatml");
  EXPECT_EQ(chat.style().bos, "<s>");
}

TEST_F(ChatTemplateLoad, TakesTheDefaultOfSeveral) {
  Write("tokenizer_config.json", json({{"chat_template",
                                        {{{"name", "tool_use"}, {"template", "x"}},
                                         {{"name", "default"}, {"template", kChatMl}}}}})
                                     .dump());
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chat, ChatTemplate::Load(dir_));
  EXPECT_EQ(chat.name(), "chatml");
}

TEST_F(ChatTemplateLoad, JinjaFileWinsOverTheConfig) {
  Write("tokenizer_config.json", json({{"chat_template", "unknown"}}).dump());
  Write("chat_template.jinja", kChatMl);
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chat, ChatTemplate::Load(dir_));
  EXPECT_EQ(chat.name(), "chatml");
}

TEST_F(ChatTemplateLoad, NameWinsOverBoth) {
  Write("tokenizer_config.json", R"({"chat_template": "unknown", "bos_token": "<b>"})");
  ASSERT_OK_AND_ASSIGN(const ChatTemplate chat, ChatTemplate::Load(dir_, "llama3"));
  EXPECT_EQ(chat.style().bos, "<b>");
}

TEST_F(ChatTemplateLoad, BrokenConfigIsDataLossAndWrongTypeInvalidArgument) {
  Write("tokenizer_config.json", "{");
  EXPECT_THAT(ChatTemplate::Load(dir_),
              StatusIs(StatusCode::kDataLoss, HasSubstr("tokenizer_config.json")));
  Write("tokenizer_config.json", R"({"chat_template": 7})");
  EXPECT_THAT(ChatTemplate::Load(dir_),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("chat_template is 7")));
}

}  // namespace
}  // namespace tessera
