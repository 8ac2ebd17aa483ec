#include "worker/leader.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <absl/time/clock.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "planner/step_capacity.h"
#include "worker/messages.h"

namespace tessera {
namespace {

constexpr absl::Duration kStatsPeriod = absl::Seconds(1);
constexpr absl::Duration kLastStep = absl::Seconds(10);

SchedulerOptions OptionsOf(const LoadedModel& model) {
  return {.limits = model.layout.limits,
          .kv_blocks = model.layout.kv_blocks,
          .lanes = Lanes(model.layout.shard.shape),
          .graph_rows = model.graph_rows,
          .now_unix_us = [] { return absl::ToUnixMicros(absl::Now()); }};
}

}  // namespace

void Inbox::Put(const internal::CoordinatorMessage& message) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    messages_.push_back(message);
  }
  changed_.notify_one();
}

void Inbox::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_one();
}

bool Inbox::Take(bool wait, std::vector<internal::CoordinatorMessage>& messages) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (wait) changed_.wait(lock, [&] { return stopped_ || !messages_.empty(); });
  messages.clear();
  messages.swap(messages_);
  return !stopped_;
}

Leader::Leader(LoadedModel& model, ServeLink& link, Inbox& inbox, Watchdog& watchdog,
               std::atomic<int64_t>& steps)
    : model_(model),
      link_(link),
      inbox_(inbox),
      watchdog_(watchdog),
      steps_(steps),
      scheduler_(OptionsOf(model)),
      max_in_flight_(StepsInFlight(model.layout.shard.shape)) {}

absl::Status Leader::Run() {
  RETURN_IF_ERROR(Loop());
  watchdog_.Arm(kLastStep, "the end of the last step");
  if (model_.group->channel() != nullptr) {
    EncodeStop(issued_, plan_);
    RETURN_IF_ERROR(model_.group->channel()->Publish(plan_));
  }
  while (scheduler_.steps_in_flight() > 0) RETURN_IF_ERROR(CollectOne());
  RETURN_IF_ERROR(model_.engine->Drain());
  watchdog_.Disarm();
  return absl::OkStatus();
}

absl::Status Leader::Loop() {
  std::vector<internal::CoordinatorMessage> messages;
  for (;;) {
    const bool sleep = scheduler_.idle();
    if (sleep) SendStats();
    if (!inbox_.Take(sleep, messages)) return absl::OkStatus();
    Receive(messages);
    RETURN_IF_ERROR(CollectFinished());
    if (scheduler_.steps_in_flight() < max_in_flight_) {
      if (std::optional<StepDraft> draft = scheduler_.NextStep()) {
        RETURN_IF_ERROR(Issue(*draft));
        continue;
      }
    }
    if (scheduler_.steps_in_flight() > 0) RETURN_IF_ERROR(CollectOne());
    Send();
  }
}

void Leader::Receive(const std::vector<internal::CoordinatorMessage>& messages) {
  for (const internal::CoordinatorMessage& message : messages) {
    if (message.has_submit()) {
      const absl::Status added = scheduler_.Add(RequestOf(message.submit()));
      if (!added.ok()) AddError(message.submit().sequence(), added, batch_);
    } else if (message.has_cancel()) {
      scheduler_.Cancel(message.cancel().sequence(), updates_);
    }
  }
  Send();
}

absl::Status Leader::Issue(const StepDraft& draft) {
  EncodePlan(draft, plan_);
  const absl::Duration allowance = model_.allowance->For(WorkOf(draft));
  watchdog_.Arm(allowance, "a step");
  if (model_.group->channel() != nullptr) RETURN_IF_ERROR(model_.group->channel()->Publish(plan_));
  RETURN_IF_ERROR(model_.engine->Execute(plan_));
  watchdog_.Disarm();
  allowances_.push_back(allowance);
  issued_ = draft.number + 1;
  steps_.fetch_add(1, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status Leader::CollectFinished() {
  while (scheduler_.steps_in_flight() > 0) {
    ASSIGN_OR_RETURN(const bool ready, model_.engine->Ready());
    if (!ready) break;
    RETURN_IF_ERROR(CollectOne());
  }
  return absl::OkStatus();
}

absl::Status Leader::CollectOne() {
  watchdog_.Arm(allowances_.front(), "a step's results");
  allowances_.pop_front();
  ASSIGN_OR_RETURN(const StepResult result, model_.engine->Collect());
  watchdog_.Disarm();
  scheduler_.Finish(result, updates_);
  Send();
  return absl::OkStatus();
}

// A lost link is noticed by its own thread, which ends the process; nothing is to be done here.
void Leader::Send() {
  for (const SequenceUpdate& update : updates_) AddEvent(update, batch_);
  updates_.clear();
  if (batch_.events_size() > 0) {
    internal::LeaderMessage message;
    *message.mutable_tokens() = std::exchange(batch_, internal::TokenBatch());
    const absl::Status sent = link_.Send(std::move(message));
    if (!sent.ok()) LogWarning("tokens not sent: ", sent.ToString());
  }
  if (absl::Now() - last_stats_ >= kStatsPeriod) SendStats();
}

void Leader::SendStats() {
  last_stats_ = absl::Now();
  internal::LeaderMessage message;
  internal::EngineStats& stats = *message.mutable_stats();
  stats.set_running(scheduler_.running());
  stats.set_waiting(scheduler_.waiting());
  stats.set_kv_blocks_free(scheduler_.free_blocks());
  stats.set_steps(steps_.load(std::memory_order_relaxed));
  link_.Send(std::move(message)).IgnoreError();
}

}  // namespace tessera
