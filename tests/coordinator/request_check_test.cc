#include "coordinator/request_check.h"

#include <limits>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::StatusIs;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

class CheckRequestTest : public ::testing::Test {
 protected:
  CheckRequestTest() {
    request_.mutable_token_ids()->mutable_ids()->Add(5);
    files_.config.vocab = 100;
    files_.generation.eos_ids = {7, 3};
  }

  absl::StatusOr<CheckedRequest> Check() {
    return CheckRequest(
        request_, {.files = &files_, .context = 16, .random_seed = 77, .fallback_id = "made-up"});
  }
  void SetPrompt(std::vector<int32_t> ids) {
    request_.mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
  }
  void ExpectInvalid(const std::string& words) {
    EXPECT_THAT(Check(), StatusIs(kInvalid, HasSubstr(words)));
  }

  ModelFiles files_{.config = {},
                    .generation = {},
                    .text = ModelText(absl::FailedPreconditionError("no tokenizer.json"))};
  v1::GenerateRequest request_;
  v1::SamplingOptions& sampling_ = *request_.mutable_sampling();
};

TEST_F(CheckRequestTest, UnsetFieldsTakeNeutralValues) {
  ASSERT_OK_AND_ASSIGN(const CheckedRequest checked, Check());
  EXPECT_EQ(checked.request_id, "made-up");
  EXPECT_EQ(checked.temperature, 0);
  EXPECT_EQ(checked.top_p, 1);
  EXPECT_EQ(checked.min_p, 0);
  EXPECT_EQ(checked.top_k, 0);
  EXPECT_EQ(checked.repetition_penalty, 1);
  EXPECT_EQ(checked.presence_penalty, 0);
  EXPECT_EQ(checked.frequency_penalty, 0);
  EXPECT_EQ(checked.choices, 1);
  EXPECT_EQ(checked.logprobs, -1);
}

TEST_F(CheckRequestTest, UnsetSamplingTakesTheModelsDefaults) {
  files_.generation.temperature = 0.5;
  files_.generation.top_p = 0.25;
  files_.generation.min_p = 0.125;
  files_.generation.top_k = 20;
  files_.generation.repetition_penalty = 1.5;
  ASSERT_OK_AND_ASSIGN(const CheckedRequest checked, Check());
  EXPECT_EQ(checked.temperature, 0.5f);
  EXPECT_EQ(checked.top_p, 0.25f);
  EXPECT_EQ(checked.min_p, 0.125f);
  EXPECT_EQ(checked.top_k, 20);
  EXPECT_EQ(checked.repetition_penalty, 1.5f);
}

TEST_F(CheckRequestTest, ExplicitSamplingWinsOverTheModelsDefaults) {
  files_.generation.temperature = 0.5;
  files_.generation.top_k = 20;
  sampling_.set_temperature(0);
  sampling_.set_top_k(0);
  ASSERT_OK_AND_ASSIGN(const CheckedRequest checked, Check());
  EXPECT_EQ(checked.temperature, 0);
  EXPECT_EQ(checked.top_k, 0);
}

TEST_F(CheckRequestTest, MaxTokensDefaultsToWhatTheContextLeaves) {
  SetPrompt({1, 2, 3});
  ASSERT_OK_AND_ASSIGN(const CheckedRequest checked, Check());
  EXPECT_EQ(checked.max_tokens, 13);
}

TEST_F(CheckRequestTest, PromptAndMaxTokensMayFillTheContext) {
  SetPrompt({1, 2, 3});
  request_.set_max_tokens(13);
  EXPECT_OK(Check());
}

TEST_F(CheckRequestTest, PromptAndMaxTokensOverTheContextAreInvalid) {
  SetPrompt({1, 2, 3});
  request_.set_max_tokens(14);
  ExpectInvalid("max_tokens: 14 and a prompt of 3 tokens exceed the context of 16");
}

TEST_F(CheckRequestTest, MaxTokensBelowOneIsInvalid) {
  for (const int32_t value : {0, -1, std::numeric_limits<int32_t>::min()}) {
    request_.set_max_tokens(value);
    ExpectInvalid(absl::StrCat("max_tokens: ", value, " is not in [1, 16]"));
  }
}

TEST_F(CheckRequestTest, PromptThatFillsTheContextLeavesNoRoom) {
  SetPrompt(std::vector<int32_t>(16, 1));
  ExpectInvalid("16 tokens leave no room in a context of 16");
}

TEST_F(CheckRequestTest, EmptyPromptIsInvalid) {
  SetPrompt({});
  ExpectInvalid("prompt: 0 tokens");
  request_.set_text("");
  ExpectInvalid("text: empty prompt");
  request_.mutable_chat();
  ExpectInvalid("chat.messages: empty prompt");
  request_.clear_prompt();
  ExpectInvalid("none of text, chat and token_ids");
}

TEST_F(CheckRequestTest, IdsOutsideTheVocabularyAreInvalid) {
  SetPrompt({1, 100});
  ExpectInvalid("token_ids[1]: 100 is not in the vocabulary [0, 100)");
  SetPrompt({-1});
  ExpectInvalid("token_ids[0]: -1");
  SetPrompt({99});
  EXPECT_OK(Check());
}

TEST_F(CheckRequestTest, TemperatureIsFiniteAndNotNegative) {
  for (const float value : {-1.f, -1e-30f, kNan, kInf, -kInf}) {
    sampling_.set_temperature(value);
    ExpectInvalid("sampling.temperature: ");
  }
  sampling_.set_temperature(kNan);
  ExpectInvalid("sampling.temperature: nan is not in [0, inf)");
  sampling_.set_temperature(100);
  EXPECT_OK(Check());
}

TEST_F(CheckRequestTest, TopPIsAboveZeroUpToOne) {
  for (const float value : {0.f, -0.5f, 1.5f, kNan, kInf}) {
    sampling_.set_top_p(value);
    ExpectInvalid("sampling.top_p: ");
  }
  sampling_.set_top_p(1);
  EXPECT_OK(Check());
}

TEST_F(CheckRequestTest, MinPIsFromZeroToOne) {
  for (const float value : {-0.5f, 1.5f, kNan}) {
    sampling_.set_min_p(value);
    ExpectInvalid("sampling.min_p: ");
  }
  for (const float value : {0.f, 1.f}) {
    sampling_.set_min_p(value);
    EXPECT_OK(Check());
  }
}

TEST_F(CheckRequestTest, TopKIsNotNegative) {
  sampling_.set_top_k(-1);
  ExpectInvalid("sampling.top_k: -1");
  sampling_.set_top_k(std::numeric_limits<int32_t>::max());
  EXPECT_OK(Check());
}

TEST_F(CheckRequestTest, RepetitionPenaltyIsFiniteAndPositive) {
  for (const float value : {0.f, -1.f, kNan, kInf}) {
    sampling_.set_repetition_penalty(value);
    ExpectInvalid("sampling.repetition_penalty: ");
  }
}

TEST_F(CheckRequestTest, PenaltiesAreFinite) {
  for (const float value : {kNan, kInf, -kInf}) {
    sampling_.set_presence_penalty(value);
    ExpectInvalid("sampling.presence_penalty: ");
    sampling_.clear_presence_penalty();
    sampling_.set_frequency_penalty(value);
    ExpectInvalid("sampling.frequency_penalty: ");
    sampling_.clear_frequency_penalty();
  }
  sampling_.set_presence_penalty(-2);
  EXPECT_OK(Check());
}

TEST_F(CheckRequestTest, ChoicesAreAtMostSixteen) {
  for (const int32_t value : {-1, 17}) {
    request_.set_choices(value);
    ExpectInvalid(absl::StrCat("choices: ", value, " is not in [0, 16]"));
  }
  request_.set_choices(16);
  EXPECT_OK(Check());
}

TEST_F(CheckRequestTest, LogprobsAreAtMostTwenty) {
  request_.set_want_logprobs(true);
  for (const int32_t value : {-1, 21}) {
    request_.set_logprobs(value);
    ExpectInvalid(absl::StrCat("logprobs: ", value, " is not in [0, 20]"));
  }
  request_.set_logprobs(20);
  ASSERT_OK_AND_ASSIGN(const CheckedRequest checked, Check());
  EXPECT_EQ(checked.logprobs, 20);
}

TEST_F(CheckRequestTest, LogprobsAreOffUnlessWanted) {
  request_.set_logprobs(5);
  ASSERT_OK_AND_ASSIGN(const CheckedRequest checked, Check());
  EXPECT_EQ(checked.logprobs, -1);
}

TEST_F(CheckRequestTest, StopIdsAreJoinedWithEosAndSorted) {
  for (const int32_t id : {50, 7}) request_.add_stop_ids(id);
  ASSERT_OK_AND_ASSIGN(const CheckedRequest checked, Check());
  EXPECT_THAT(checked.stop_ids, ElementsAre(3, 7, 50));
}

TEST_F(CheckRequestTest, IgnoreEosLeavesOnlyTheRequestsStopIds) {
  request_.add_stop_ids(50);
  request_.set_ignore_eos(true);
  ASSERT_OK_AND_ASSIGN(const CheckedRequest checked, Check());
  EXPECT_THAT(checked.stop_ids, ElementsAre(50));
}

TEST_F(CheckRequestTest, StopIdsOutsideTheVocabularyAreInvalid) {
  request_.add_stop_ids(100);
  ExpectInvalid("stop_ids[0]: 100");
}

TEST_F(CheckRequestTest, StopIdsAreAtMostSixtyFour) {
  for (int i = 0; i < 65; ++i) request_.add_stop_ids(1);
  ExpectInvalid("stop_ids: 65 ids; at most 64");
}

TEST_F(CheckRequestTest, StopStringsAreAtMostSixteen) {
  for (int i = 0; i < 17; ++i) request_.add_stop("x");
  ExpectInvalid("stop: 17 strings; at most 16");
}

TEST_F(CheckRequestTest, StopStringsHaveOneTo256Bytes) {
  request_.add_stop("");
  ExpectInvalid("stop[0]: 0 bytes, not in [1, 256]");
  request_.set_stop(0, std::string(257, 'x'));
  ExpectInvalid("stop[0]: 257 bytes");
}

TEST_F(CheckRequestTest, StopStringsNeedATokenizer) {
  request_.add_stop("x");
  EXPECT_THAT(Check(), StatusIs(absl::StatusCode::kFailedPrecondition, "no tokenizer.json"));
}

TEST_F(CheckRequestTest, TextAndChatNeedATokenizer) {
  request_.set_text("hello");
  EXPECT_THAT(Check(), StatusIs(absl::StatusCode::kFailedPrecondition, "no tokenizer.json"));
  v1::ChatMessage& message = *request_.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("hello");
  EXPECT_THAT(Check(), StatusIs(absl::StatusCode::kFailedPrecondition, "no tokenizer.json"));
}

TEST_F(CheckRequestTest, UsersMessageIsNotEmpty) {
  v1::ChatMessage& message = *request_.mutable_chat()->add_messages();
  message.set_role("user");
  ExpectInvalid("chat.messages[0].content: empty prompt");
}

TEST_F(CheckRequestTest, UnknownRolesAreInvalid) {
  request_.mutable_chat()->add_messages()->set_role("robot");
  ExpectInvalid("chat.messages[0].role: \"robot\" is not system, user or assistant");
}

TEST_F(CheckRequestTest, RequestIdHasOnlyHarmlessBytes) {
  for (const std::string& id : {std::string("a b"), std::string("a\nb"), std::string("../x/y"),
                                std::string(129, 'a'), std::string("\xc3\xa9")}) {
    request_.set_request_id(id);
    ExpectInvalid("request_id: ");
  }
  request_.set_request_id("My.request_id-1");
  ASSERT_OK_AND_ASSIGN(const CheckedRequest checked, Check());
  EXPECT_EQ(checked.request_id, "My.request_id-1");
}

TEST_F(CheckRequestTest, SeedIsTheRequestsOrRandom) {
  ASSERT_OK_AND_ASSIGN(const CheckedRequest random, Check());
  EXPECT_EQ(random.seed, 77u);
  sampling_.set_seed(0);
  ASSERT_OK_AND_ASSIGN(const CheckedRequest fixed, Check());
  EXPECT_EQ(fixed.seed, 0u);
}

}  // namespace
}  // namespace tessera
