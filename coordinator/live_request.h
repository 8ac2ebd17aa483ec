// One request while its tokens come: turns the leader's events into the client's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "coordinator/choice_text.h"
#include "coordinator/event_sink.h"
#include "coordinator/journal.h"
#include "proto/cluster.pb.h"
#include "proto/inference.pb.h"

namespace tessera {

// A moment on both clocks: one for durations here, one to compare with the leader's.
struct Moment {
  int64_t steady_us = 0;
  int64_t unix_us = 0;
};

// Not thread-safe: its owner's mutex guards it.
class LiveRequest {
 public:
  // `journal` (borrowed) has an open entry under `key`; `tokenizer` (borrowed) may be
  // null. `accepted`: when the request came.
  LiveRequest(uint64_t key, Journal& journal, const Tokenizer* tokenizer,
              std::shared_ptr<EventSink> sink, Moment accepted);

  // What one event of a choice brings.
  struct Outcome {
    v1::GenerateEvent event;
    bool started = false;   // this was the choice's first event
    bool finished = false;  // the choice has ended
    bool surplus = false;   // it ended here, by a stop string, and still runs at the leader
  };
  // `event` is not an error and `choice` has not finished. `now_us`: by the steady clock.
  Outcome OnEvent(int choice, const internal::SequenceEvent& event, int64_t now_us);

  // The first event of the stream, before any of OnEvent's.
  v1::GenerateEvent FirstEvent() const;

  bool started(int choice) const { return choices_[static_cast<size_t>(choice)].started; }
  bool finished(int choice) const { return choices_[static_cast<size_t>(choice)].finished; }
  EventSink& sink() { return *sink_; }

 private:
  struct Choice {
    ChoiceText text;
    bool started = false;
    bool finished = false;
    std::optional<int64_t> first_token_at;  // here, by the steady clock, in us
    // By the leader's clock; 0: not yet, or not told.
    int64_t scheduled_us = 0, first_produced_us = 0, last_produced_us = 0;
  };

  // Copies tokens up to the one that ends the choice; returns the reason it ends for, if it does.
  v1::FinishReason TakeTokens(Choice& choice, const internal::SequenceEvent& event,
                              v1::GenerateEvent& out);
  // As proto/inference.proto defines it.
  v1::Timing TimingOf(const Choice& choice, int64_t tokens, int64_t now_us) const;

  uint64_t key_;
  Journal& journal_;
  std::shared_ptr<EventSink> sink_;
  Moment accepted_;
  bool want_logprobs_;
  std::vector<Choice> choices_;
  bool prompt_logprobs_sent_ = false;
};

}  // namespace tessera
