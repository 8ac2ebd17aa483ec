#include "coordinator/live_request.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace tessera {
namespace {

double Ms(int64_t us) { return static_cast<double>(std::max<int64_t>(us, 0)) / 1000.0; }

}  // namespace

LiveRequest::LiveRequest(uint64_t key, Journal& journal, const Tokenizer* tokenizer,
                         std::shared_ptr<EventSink> sink, Moment accepted)
    : key_(key), journal_(journal), sink_(std::move(sink)), accepted_(accepted) {
  const JournalEntry* entry = journal_.Find(key);
  TESSERA_CHECK(entry != nullptr, "key=", key);
  want_logprobs_ = entry->request.logprobs >= 0;
  for (size_t i = 0; i < entry->choices.size(); ++i) {
    choices_.push_back({.text = ChoiceText(tokenizer, entry->request.stop, entry->request.prompt)});
  }
}

v1::GenerateEvent LiveRequest::FirstEvent() const {
  const CheckedRequest& request = journal_.Find(key_)->request;
  v1::GenerateEvent event;
  event.set_request_id(request.request_id);
  event.mutable_prompt_tokens()->Assign(request.prompt.begin(), request.prompt.end());
  return event;
}

v1::FinishReason LiveRequest::TakeTokens(Choice& choice, const internal::SequenceEvent& event,
                                         v1::GenerateEvent& out) {
  const v1::FinishReason reason = event.finish_reason();
  for (int i = 0; i < event.tokens_size(); ++i) {
    v1::GeneratedToken& token = *out.add_tokens();
    token.set_id(event.tokens(i).id());
    if (want_logprobs_) token = event.tokens(i);
    // The token that made the leader stop is an end mark, not text.
    const bool end_mark = reason == v1::FINISH_REASON_STOP && i == event.tokens_size() - 1;
    if (!end_mark && choice.text.Push(token.id(), *out.mutable_text())) {
      return v1::FINISH_REASON_STOP;
    }
  }
  if (reason != v1::FINISH_REASON_UNSPECIFIED && choice.text.Finish(*out.mutable_text())) {
    return v1::FINISH_REASON_STOP;
  }
  return reason;
}

LiveRequest::Outcome LiveRequest::OnEvent(int index, const internal::SequenceEvent& event,
                                          int64_t now_us) {
  Choice& choice = choices_.at(static_cast<size_t>(index));
  TESSERA_CHECK(!choice.finished, "choice=", index);
  Outcome outcome;
  outcome.started = !choice.started;
  choice.started = true;
  if (event.scheduled_unix_us() != 0) choice.scheduled_us = event.scheduled_unix_us();
  v1::GenerateEvent& out = outcome.event;
  out.set_choice(index);
  if (!prompt_logprobs_sent_ && event.prompt_logprobs_size() > 0) {
    *out.mutable_prompt_logprobs() = event.prompt_logprobs();
    prompt_logprobs_sent_ = true;
  }
  const v1::FinishReason reason = TakeTokens(choice, event, out);
  std::vector<int32_t> ids;
  for (const v1::GeneratedToken& token : out.tokens()) ids.push_back(token.id());
  journal_.Append(key_, index, ids);
  if (!ids.empty()) {
    if (!choice.first_token_at) {
      choice.first_token_at = now_us;
      choice.first_produced_us = event.produced_unix_us();
    }
    choice.last_produced_us = event.produced_unix_us();
  }
  if (reason == v1::FINISH_REASON_UNSPECIFIED) return outcome;

  choice.finished = true;
  outcome.finished = true;
  outcome.surplus = event.finish_reason() == v1::FINISH_REASON_UNSPECIFIED;
  journal_.Finish(key_, index, reason);
  out.set_finish_reason(reason);
  *out.mutable_usage() = journal_.UsageOf(key_, index);
  *out.mutable_timing() = TimingOf(choice, out.usage().completion_tokens(), now_us);
  return outcome;
}

v1::Timing LiveRequest::TimingOf(const Choice& choice, int64_t tokens, int64_t now_us) const {
  v1::Timing timing;
  timing.set_total_ms(Ms(now_us - accepted_.steady_us));
  if (!choice.first_token_at) return timing;
  const int64_t ttft_us = *choice.first_token_at - accepted_.steady_us;
  timing.set_ttft_ms(Ms(ttft_us));
  if (choice.first_produced_us == 0) return timing;  // the leader does not tell
  if (choice.scheduled_us != 0) {
    // However the hosts' clocks differ, the engine's own part of ttft was not spent waiting.
    const int64_t engine_us = std::max<int64_t>(choice.first_produced_us - choice.scheduled_us, 0);
    const int64_t queue_us = choice.scheduled_us - accepted_.unix_us;
    timing.set_queue_ms(Ms(std::min(queue_us, ttft_us - engine_us)));
  }
  if (tokens > 1) {
    timing.set_tpot_ms(Ms(choice.last_produced_us - choice.first_produced_us) /
                       static_cast<double>(tokens - 1));
  }
  return timing;
}

}  // namespace tessera
