#include "coordinator/serving.h"

#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "common/log.h"
#include "common/status_macros.h"

namespace tessera {
namespace {

// What one choice adds to the queue.
QueueLoad ChoiceLoad(const CheckedRequest& request) {
  const auto tokens = static_cast<int64_t>(request.prompt.size());
  int64_t bytes = static_cast<int64_t>(sizeof(JournalChoice) + sizeof(LiveRequest)) +
                  tokens * static_cast<int64_t>(sizeof(int32_t));
  for (const std::string& stop : request.stop) bytes += static_cast<int64_t>(stop.size());
  return {.requests = 1, .tokens = tokens, .bytes = bytes};
}

QueueLoad Times(const QueueLoad& load, int64_t n) {
  return {.requests = load.requests * n, .tokens = load.tokens * n, .bytes = load.bytes * n};
}

internal::CoordinatorMessage SubmitMessage(const CheckedRequest& request, uint64_t sequence,
                                           int choice) {
  internal::CoordinatorMessage message;
  internal::Submit& submit = *message.mutable_submit();
  submit.set_sequence(sequence);
  submit.set_request_id(request.request_id);
  submit.mutable_prompt()->Assign(request.prompt.begin(), request.prompt.end());
  v1::SamplingOptions& sampling = *submit.mutable_sampling();
  sampling.set_temperature(request.temperature);
  sampling.set_top_p(request.top_p);
  sampling.set_min_p(request.min_p);
  sampling.set_top_k(request.top_k);
  sampling.set_repetition_penalty(request.repetition_penalty);
  sampling.set_presence_penalty(request.presence_penalty);
  sampling.set_frequency_penalty(request.frequency_penalty);
  sampling.set_seed(request.seed + static_cast<uint64_t>(choice));
  submit.set_max_tokens(request.max_tokens);
  submit.set_logprobs(request.logprobs);
  submit.set_prompt_logprobs(request.prompt_logprobs && choice == 0);  // the same for all choices
  submit.mutable_stop_ids()->Assign(request.stop_ids.begin(), request.stop_ids.end());
  return message;
}

}  // namespace

Serving::Serving(ServingSpec spec, const Clock& clock)
    : spec_(std::move(spec)),
      clock_(clock),
      closed_(absl::UnavailableError(absl::StrCat("model ", spec_.name, ": not ready"))),
      admission_(spec_.queue) {}

void Serving::Open(std::shared_ptr<LeaderStream> leader) {
  std::lock_guard<std::mutex> lock(mu_);
  leader_ = std::move(leader);
  stats_.last_step_us = clock_.SteadyUs();
}

void Serving::Close(const absl::Status& why) {
  std::lock_guard<std::mutex> lock(mu_);
  closed_ = why;
  if (leader_ != nullptr) leader_->Close(why);
  leader_ = nullptr;
  stats_.engine = {};  // there is none any more
  while (!live_.empty()) End(live_.begin()->first, why);
}

absl::StatusOr<uint64_t> Serving::Start(CheckedRequest request, std::shared_ptr<EventSink> sink,
                                        Moment accepted) {
  std::lock_guard<std::mutex> lock(mu_);
  if (leader_ == nullptr) return closed_;
  const absl::Status room = admission_.Enter(Times(ChoiceLoad(request), request.choices));
  if (!room.ok()) {
    ++stats_.refused;
    return room;
  }
  const uint64_t key = next_request_++;
  const JournalEntry& entry = journal_.Open(key, std::move(request), next_sequence_);
  next_sequence_ += entry.choices.size();
  const auto [place, is_new] = live_.try_emplace(key, key, journal_, spec_.files->text.tokenizer(),
                                                 std::move(sink), accepted);
  for (size_t i = 0; i < entry.choices.size(); ++i) {
    sequences_[entry.choices[i].sequence] = {.request = key, .choice = static_cast<int>(i)};
  }
  LiveRequest& live = place->second;
  if (live.sink().Push(live.FirstEvent())) {
    SubmitChoices(entry);
  } else {
    End(key, absl::ResourceExhaustedError("the client's buffer is too small for the prompt"));
  }
  return key;
}

void Serving::SubmitChoices(const JournalEntry& entry) {
  for (size_t i = 0; i < entry.choices.size(); ++i) {
    leader_->Send(SubmitMessage(entry.request, entry.choices[i].sequence, static_cast<int>(i)));
  }
}

void Serving::Cancel(uint64_t request, const absl::Status& why) {
  std::lock_guard<std::mutex> lock(mu_);
  if (live_.contains(request)) End(request, why);
}

void Serving::CancelAtLeader(uint64_t sequence) {
  if (leader_ == nullptr) return;
  internal::CoordinatorMessage message;
  message.mutable_cancel()->set_sequence(sequence);
  leader_->Send(message);
}

void Serving::End(uint64_t request, const absl::Status& why) {
  LiveRequest& live = live_.at(request);
  const JournalEntry& entry = *journal_.Find(request);
  int64_t tokens = 0;
  for (size_t i = 0; i < entry.choices.size(); ++i) {
    const JournalChoice& choice = entry.choices[i];
    tokens += static_cast<int64_t>(choice.tokens.size());
    if (!live.started(static_cast<int>(i))) admission_.Leave(ChoiceLoad(entry.request));
    if (!live.finished(static_cast<int>(i))) CancelAtLeader(choice.sequence);
    sequences_.erase(choice.sequence);
  }
  live.sink().End(why);
  LogInfo("request ", entry.request.request_id, ": model ", spec_.name, ", ", tokens, " tokens, ",
          why.ok() ? "done" : absl::StatusCodeToString(why.code()));
  ++stats_.completed;
  live_.erase(request);
  journal_.Close(request);
}

void Serving::OnSequence(const internal::SequenceEvent& event) {
  const auto found = sequences_.find(event.sequence());
  if (found == sequences_.end()) return;  // it ended here while the event was on its way
  const auto [request, choice] = found->second;
  if (event.error_code() != 0) {
    End(request, absl::Status(static_cast<absl::StatusCode>(event.error_code()),
                              event.error_message().substr(0, 1024)));
    return;
  }
  LiveRequest& live = live_.at(request);
  LiveRequest::Outcome outcome = live.OnEvent(choice, event, clock_.SteadyUs());
  if (outcome.started) admission_.Leave(ChoiceLoad(journal_.Find(request)->request));
  if (outcome.finished) sequences_.erase(event.sequence());
  if (outcome.surplus) CancelAtLeader(event.sequence());
  if (!live.sink().Push(std::move(outcome.event))) {
    End(request, absl::ResourceExhaustedError("the client does not read its stream"));
  } else if (outcome.finished && journal_.AllFinished(request)) {
    End(request, absl::OkStatus());
  }
}

void Serving::OnMessage(const internal::LeaderMessage& message) {
  std::lock_guard<std::mutex> lock(mu_);
  if (leader_ == nullptr) return;
  for (const internal::SequenceEvent& event : message.tokens().events()) OnSequence(event);
  if (message.has_stats()) {
    if (message.stats().steps() > stats_.engine.steps() || message.stats().running() == 0) {
      stats_.last_step_us = clock_.SteadyUs();
    }
    stats_.engine = message.stats();
  }
}

ServingStats Serving::stats() const {
  std::lock_guard<std::mutex> lock(mu_);
  ServingStats stats = stats_;
  stats.live = static_cast<int64_t>(live_.size());
  return stats;
}

}  // namespace tessera
