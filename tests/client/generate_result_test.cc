#include "client/generate_result.h"

#include <cmath>
#include <limits>

#include <nlohmann/json.hpp>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::tessera::testing::StatusIs;

v1::GenerateEvent Token(int32_t choice, int32_t id, float logprob, const std::string& text) {
  v1::GenerateEvent event;
  event.set_choice(choice);
  event.set_text(text);
  v1::GeneratedToken& token = *event.add_tokens();
  token.set_id(id);
  token.set_logprob(logprob);
  v1::TokenLogprob& top = *token.add_top();
  top.set_id(id);
  top.set_logprob(logprob);
  return event;
}

v1::GenerateEvent Finish(int32_t choice, v1::FinishReason reason) {
  v1::GenerateEvent event;
  event.set_choice(choice);
  event.set_finish_reason(reason);
  event.mutable_usage()->set_prompt_tokens(2);
  event.mutable_usage()->set_completion_tokens(1);
  event.mutable_timing()->set_queue_ms(0.5);
  event.mutable_timing()->set_ttft_ms(1.5);
  event.mutable_timing()->set_tpot_ms(2.5);
  event.mutable_timing()->set_total_ms(4);
  return event;
}

v1::GenerateEvent Prompt() {
  v1::GenerateEvent event;
  event.add_prompt_tokens(10);
  event.add_prompt_tokens(11);
  event.add_prompt_logprobs(-3.25f);
  return event;
}

TEST(GenerateResult, JsonHasTheWholeAnswer) {
  GenerateResult result({.choices = 1, .logprobs = true, .prompt_logprobs = true});
  for (const auto& event : {Prompt(), Token(0, 7, -0.5f, "hi"), Finish(0, v1::FINISH_REASON_STOP)})
    ASSERT_OK(result.Add(event));
  ASSERT_OK(result.CheckFinished());
  EXPECT_EQ(json::parse(Dump(result.ToJson())), json::parse(R"({
    "prompt_tokens": [10, 11], "tokens": [7], "text": "hi",
    "logprobs": [{"token": 7, "logprob": -0.5, "top": [[7, -0.5]]}],
    "prompt_logprobs": [null, -3.25], "finish_reason": "stop",
    "usage": {"prompt_tokens": 2, "completion_tokens": 1},
    "timing": {"queue_ms": 0.5, "ttft_ms": 1.5, "tpot_ms": 2.5, "total_ms": 4.0}})"));
}

TEST(GenerateResult, ListsNotAskedForAreEmpty) {
  GenerateResult result(WantedResult{});
  for (const auto& event :
       {Prompt(), Token(0, 7, -0.5f, "hi"), Finish(0, v1::FINISH_REASON_LENGTH)})
    ASSERT_OK(result.Add(event));
  const json parsed = json::parse(Dump(result.ToJson()));
  EXPECT_EQ(parsed["logprobs"], json::array());
  EXPECT_EQ(parsed["prompt_logprobs"], json::array());
  EXPECT_EQ(parsed["finish_reason"], "length");
}

TEST(GenerateResult, PromptOfOneTokenHasOneNullLogprob) {
  GenerateResult result({.prompt_logprobs = true});
  v1::GenerateEvent event;
  event.add_prompt_tokens(10);
  ASSERT_OK(result.Add(event));
  EXPECT_EQ(json::parse(Dump(result.ToJson()))["prompt_logprobs"], json::parse("[null]"));
}

TEST(GenerateResult, SeveralChoicesLieUnderChoices) {
  GenerateResult result({.choices = 2});
  for (const auto& event : {Prompt(), Token(1, 8, 0, "b"), Token(0, 7, 0, "a"),
                            Finish(0, v1::FINISH_REASON_STOP), Finish(1, v1::FINISH_REASON_LENGTH)})
    ASSERT_OK(result.Add(event));
  const json parsed = json::parse(Dump(result.ToJson()));
  EXPECT_EQ(parsed["prompt_tokens"], json::parse("[10, 11]"));
  ASSERT_EQ(parsed["choices"].size(), 2u);
  EXPECT_EQ(parsed["choices"][0]["text"], "a");
  EXPECT_EQ(parsed["choices"][1]["tokens"], json::parse("[8]"));
  EXPECT_EQ(parsed["choices"][1]["finish_reason"], "length");
  EXPECT_EQ(parsed["choices"][1]["prompt_tokens"], json::parse("[10, 11]"));
}

TEST(GenerateResult, NumbersReadBackAsTheSameFp32) {
  for (const float logprob : {-0.1f, -1.f / 3, -1.17549435e-38f, -16777217.f, -3.4028235e38f,
                              std::nextafter(-1.f, 0.f), -1.4e-45f}) {
    GenerateResult result({.logprobs = true});
    ASSERT_OK(result.Add(Token(0, 1, logprob, "")));
    const json parsed = json::parse(Dump(result.ToJson()));
    EXPECT_EQ(static_cast<float>(parsed["logprobs"][0]["logprob"].get<double>()), logprob);
  }
}

TEST(GenerateResult, ImpossibleTokenHasNullLogprob) {
  GenerateResult result({.logprobs = true});
  ASSERT_OK(result.Add(Token(0, 1, -std::numeric_limits<float>::infinity(), "")));
  EXPECT_TRUE(json::parse(Dump(result.ToJson()))["logprobs"][0]["logprob"].is_null());
}

TEST(GenerateResult, TextComesInPieces) {
  GenerateResult result(WantedResult{});
  ASSERT_OK(result.Add(Token(0, 1, 0, "\xC3\xA9")));
  ASSERT_OK(result.Add(Token(0, 2, 0, "\"\n")));
  EXPECT_EQ(json::parse(Dump(result.ToJson()))["text"], "\xC3\xA9\"\n");
}

TEST(GenerateResult, CancelEndsWhatStillRuns) {
  GenerateResult result({.choices = 2});
  for (const auto& event : {Prompt(), Finish(0, v1::FINISH_REASON_STOP), Token(1, 8, 0, "b")})
    ASSERT_OK(result.Add(event));
  result.Cancel();
  const json parsed = json::parse(Dump(result.ToJson()));
  EXPECT_EQ(parsed["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(parsed["choices"][1]["finish_reason"], "cancelled");
  EXPECT_EQ(parsed["choices"][1]["usage"]["completion_tokens"], 1);
}

TEST(GenerateResult, UnaskedChoiceIsInternal) {
  GenerateResult result(WantedResult{});
  EXPECT_THAT(result.Add(Token(1, 1, 0, "")),
              StatusIs(absl::StatusCode::kInternal, ::testing::HasSubstr("choice 1")));
}

TEST(GenerateResult, MissingFinishReasonIsInternal) {
  GenerateResult result(WantedResult{});
  ASSERT_OK(result.Add(Token(0, 1, 0, "")));
  EXPECT_THAT(result.CheckFinished(),
              StatusIs(absl::StatusCode::kInternal, ::testing::HasSubstr("choice 0")));
}

TEST(GenerateResult, CancelledAnswerIsTimedByWhatWasSeen) {
  const absl::Time start = absl::UnixEpoch();
  GenerateResult result(WantedResult{}, start);
  for (const int ms : {10, 14, 20})
    ASSERT_OK(result.Add(Token(0, 1, 0, "x"), start + absl::Milliseconds(ms)));
  result.Cancel(start + absl::Milliseconds(25));
  EXPECT_EQ(
      json::parse(Dump(result.ToJson()))["timing"],
      json::parse(R"({"queue_ms": null, "ttft_ms": 10.0, "tpot_ms": 5.0, "total_ms": 25.0})"));
}

TEST(GenerateResult, CancelBeforeTheFirstTokenHasOnlyATotal) {
  const absl::Time start = absl::UnixEpoch();
  GenerateResult result(WantedResult{}, start);
  result.Cancel(start + absl::Milliseconds(3));
  EXPECT_EQ(
      json::parse(Dump(result.ToJson()))["timing"],
      json::parse(R"({"queue_ms": null, "ttft_ms": null, "tpot_ms": null, "total_ms": 3.0})"));
}

TEST(GenerateResult, OneTokenHasNoTimePerToken) {
  GenerateResult result(WantedResult{});
  ASSERT_OK(result.Add(Token(0, 7, 0, "a")));
  v1::GenerateEvent end = Finish(0, v1::FINISH_REASON_LENGTH);
  end.mutable_timing()->clear_tpot_ms();
  ASSERT_OK(result.Add(end));
  EXPECT_TRUE(json::parse(Dump(result.ToJson()))["timing"]["tpot_ms"].is_null());
}

}  // namespace
}  // namespace tessera
