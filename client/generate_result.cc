#include "client/generate_result.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

namespace tessera {

absl::string_view Name(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    default:
      return "";
  }
}

absl::Status GenerateResult::Add(const v1::GenerateEvent& event, absl::Time now) {
  if (event.choice() < 0 || event.choice() >= static_cast<int64_t>(choices_.size())) {
    return absl::InternalError(
        absl::StrCat("the coordinator sent choice ", event.choice(), " of ", choices_.size()));
  }
  prompt_tokens_.insert(prompt_tokens_.end(), event.prompt_tokens().begin(),
                        event.prompt_tokens().end());
  if (prompt_logprobs_.empty())
    prompt_logprobs_.assign(event.prompt_logprobs().begin(), event.prompt_logprobs().end());
  ChoiceResult& choice = choices_[static_cast<size_t>(event.choice())];
  choice.tokens.insert(choice.tokens.end(), event.tokens().begin(), event.tokens().end());
  if (event.tokens_size() > 0) {
    choice.first_token = std::min(choice.first_token, now);
    choice.last_token = now;
  }
  choice.text += event.text();
  if (event.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
    choice.finish_reason = event.finish_reason();
    choice.usage = event.usage();
    choice.timing = event.timing();
  }
  return absl::OkStatus();
}

absl::Status GenerateResult::CheckFinished() const {
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (choices_[i].finish_reason == v1::FINISH_REASON_UNSPECIFIED)
      return absl::InternalError(absl::StrCat("the stream ended before choice ", i, " finished"));
  }
  return absl::OkStatus();
}

void GenerateResult::Cancel(absl::Time now) {
  for (ChoiceResult& choice : choices_) {
    if (choice.finish_reason != v1::FINISH_REASON_UNSPECIFIED) continue;
    choice.finish_reason = v1::FINISH_REASON_CANCELLED;
    choice.usage.set_prompt_tokens(static_cast<int64_t>(prompt_tokens_.size()));
    const auto tokens = static_cast<int64_t>(choice.tokens.size());
    choice.usage.set_completion_tokens(tokens);
    choice.timing.set_total_ms(absl::ToDoubleMilliseconds(now - started_));
    if (tokens < 1) continue;
    choice.timing.set_ttft_ms(absl::ToDoubleMilliseconds(choice.first_token - started_));
    if (tokens < 2) continue;
    const absl::Duration decode = choice.last_token - choice.first_token;
    choice.timing.set_tpot_ms(absl::ToDoubleMilliseconds(decode) / static_cast<double>(tokens - 1));
  }
}

FloatJson GenerateResult::ChoiceJson(const ChoiceResult& choice) const {
  FloatJson tokens = FloatJson::array(), logprobs = FloatJson::array();
  for (const v1::GeneratedToken& token : choice.tokens) {
    tokens.push_back(token.id());
    if (!wanted_.logprobs) continue;
    FloatJson top = FloatJson::array();
    for (const v1::TokenLogprob& candidate : token.top())
      top.push_back(FloatJson::array({candidate.id(), candidate.logprob()}));
    logprobs.push_back({{"token", token.id()}, {"logprob", token.logprob()}, {"top", top}});
  }
  FloatJson prompt_logprobs = FloatJson::array();
  if (wanted_.prompt_logprobs && !prompt_tokens_.empty()) {
    prompt_logprobs.push_back(nullptr);  // the first token has nothing before it
    for (const float logprob : prompt_logprobs_) prompt_logprobs.push_back(logprob);
  }
  const auto ms = [](bool known, double value) {
    return known ? FloatJson(static_cast<float>(value)) : FloatJson(nullptr);
  };
  const v1::Timing& t = choice.timing;
  return {{"prompt_tokens", prompt_tokens_},
          {"tokens", tokens},
          {"text", choice.text},
          {"logprobs", logprobs},
          {"prompt_logprobs", prompt_logprobs},
          {"finish_reason", std::string(Name(choice.finish_reason))},
          {"usage",
           {{"prompt_tokens", choice.usage.prompt_tokens()},
            {"completion_tokens", choice.usage.completion_tokens()}}},
          {"timing",
           {{"queue_ms", ms(t.has_queue_ms(), t.queue_ms())},
            {"ttft_ms", ms(t.has_ttft_ms(), t.ttft_ms())},
            {"tpot_ms", ms(t.has_tpot_ms(), t.tpot_ms())},
            {"total_ms", ms(true, t.total_ms())}}}};
}

FloatJson GenerateResult::ToJson() const {
  if (choices_.size() == 1) return ChoiceJson(choices_[0]);
  FloatJson list = FloatJson::array();
  for (const ChoiceResult& choice : choices_) list.push_back(ChoiceJson(choice));
  return {{"prompt_tokens", prompt_tokens_}, {"choices", list}};
}

std::string Dump(const FloatJson& json) {
  return json.dump(-1, ' ', false, FloatJson::error_handler_t::replace);
}

}  // namespace tessera
