#include "worker/scheduler.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/align.h"
#include "common/check.h"

namespace tessera {
namespace {

constexpr int64_t kStepsPerLane = 2;  // under way at once: one runs while the next is issued

bool Neutral(const SamplingParams& p) { return p.temperature == 0.f && p.penalties == 0; }

// Puts a sequence back in its place by age.
template <typename Container>
void InsertByAge(Container& sequences, const SequencePtr& sequence) {
  const auto at = std::find_if(sequences.begin(), sequences.end(),
                               [&](const SequencePtr& s) { return s->age > sequence->age; });
  sequences.insert(at, sequence);
}

template <typename Container>
void Remove(Container& sequences, const SequencePtr& sequence) {
  sequences.erase(std::remove(sequences.begin(), sequences.end(), sequence), sequences.end());
}

}  // namespace

Scheduler::Scheduler(SchedulerOptions options)
    : options_(std::move(options)),
      pool_(options_.kv_blocks),
      last_step_of_lane_(static_cast<size_t>(options_.lanes), -1) {
  for (int64_t slot = options_.limits.max_sequences - 1; slot >= 0; --slot)
    free_slots_.push_back(static_cast<int32_t>(slot));
}

absl::Status Scheduler::Add(SequenceRequest request) {
  const int64_t positions = static_cast<int64_t>(request.prompt.size()) + request.max_tokens - 1;
  const int64_t needed = CeilDiv(positions, options_.limits.block_size);
  if (needed > pool_.total()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("prompt of ", request.prompt.size(), " and max_tokens ", request.max_tokens,
                     " need ", needed, " KV blocks of ", options_.limits.block_size,
                     " tokens, there are ", pool_.total()));
  }
  if (sequences_.contains(request.id))
    return absl::AlreadyExistsError(absl::StrCat("sequence ", request.id, " is running"));
  auto sequence = std::make_shared<Sequence>();
  sequence->age = next_age_++;
  sequence->tokens = request.prompt;
  sequence->request = std::move(request);
  sequences_[sequence->request.id] = sequence;
  waiting_.push_back(std::move(sequence));
  return absl::OkStatus();
}

bool Scheduler::Cancel(uint64_t id, std::vector<SequenceUpdate>& updates) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end()) return false;
  const SequencePtr sequence = it->second;
  End(sequence);
  updates.push_back({.id = id, .finish = FinishKind::kCancelled});
  return true;
}

std::optional<StepDraft> Scheduler::NextStep() {
  for (int64_t i = 0; i < options_.lanes; ++i) {
    const auto lane = static_cast<int32_t>((next_lane_ + i) % options_.lanes);
    if (InFlight(lane) >= kStepsPerLane) continue;
    Building step;
    step.draft.number = step.issued.number = next_number_;
    step.draft.lane = step.issued.lane = lane;
    step.budget = options_.limits.max_step_tokens;
    AddDecoding(step);
    AddPrefill(step);
    AdmitWaiting(step);
    if (step.draft.sequences.empty()) continue;

    const auto single = [](const PlannedSequence& s) { return s.tokens.size() == 1; };
    if (std::all_of(step.draft.sequences.begin(), step.draft.sequences.end(), single)) {
      const auto rows = static_cast<int32_t>(step.draft.sequences.size());
      const auto bucket =
          std::lower_bound(options_.graph_rows.begin(), options_.graph_rows.end(), rows);
      if (bucket != options_.graph_rows.end()) step.draft.graph_rows = *bucket;
    }
    last_step_of_lane_[static_cast<size_t>(lane)] = next_number_++;
    next_lane_ = static_cast<int32_t>((lane + 1) % options_.lanes);
    in_flight_.push_back(std::move(step.issued));
    return std::move(step.draft);
  }
  return std::nullopt;
}

// One row for each sequence that has only its newest token left to compute, known or still under
// way.
void Scheduler::AddDecoding(Building& step) {
  const std::vector<SequencePtr> by_age = running_;  // preemption changes running_
  for (const SequencePtr& s : by_age) {
    if (step.budget == 0) return;
    if (s->slot < 0 || s->lane != step.draft.lane) continue;
    if (s->known() - s->computed > 1) continue;
    if (s->samples_issued >= s->request.max_tokens) continue;
    const bool from_last_sample = s->computed >= s->known();
    if (from_last_sample &&
        s->last_sample_step != last_step_of_lane_[static_cast<size_t>(step.draft.lane)])
      continue;  // its id is neither known yet nor on the device's newest list
    if (Reserve(*s, 1, step)) AddRows(s, 1, step);
  }
}

void Scheduler::AddPrefill(Building& step) {
  const std::vector<SequencePtr> by_age = running_;
  for (const SequencePtr& s : by_age) {
    if (step.budget == 0) return;
    if (s->slot < 0 || s->lane != step.draft.lane || s->known() - s->computed <= 1) continue;
    const int64_t rows = ReserveUpTo(*s, std::min(step.budget, s->known() - s->computed), step);
    if (rows > 0) AddRows(s, rows, step);
  }
}

// Takes waiting sequences in order while there is room for the whole of what they know and one
// token more, so that a newcomer does not push out those already running.
void Scheduler::AdmitWaiting(Building& step) {
  while (step.budget > 0 && !waiting_.empty() && !free_slots_.empty()) {
    const SequencePtr s = waiting_.front();
    if (s->samples_under_way() > 0) return;
    for (int32_t lane = 0; lane < options_.lanes; ++lane) {
      if (LaneLoad(lane) < LaneLoad(step.draft.lane)) return;  // left to the emptier lane
    }
    const int64_t positions = std::min(s->known() + 1, s->prompt_len() + s->request.max_tokens - 1);
    if (CeilDiv(positions, options_.limits.block_size) > pool_.available()) return;
    waiting_.pop_front();
    s->slot = free_slots_.back();
    free_slots_.pop_back();
    s->slot_is_new = true;
    s->lane = step.draft.lane;
    s->computed = 0;
    if (s->scheduled_unix_us == 0) s->scheduled_unix_us = options_.now_unix_us();
    InsertByAge(running_, s);
    const int64_t rows = ReserveUpTo(*s, std::min(step.budget, s->known()), step);
    TESSERA_CHECK(rows > 0, "admitted without blocks, free ", pool_.available());
    AddRows(s, rows, step);
  }
}

void Scheduler::AddRows(const SequencePtr& sequence, int64_t rows, Building& step) {
  Sequence& s = *sequence;
  StepDraft& draft = step.draft;
  PlannedSequence planned = {.slot = s.slot, .first_position = static_cast<int32_t>(s.computed)};
  IssuedRow issued = {.sequence = sequence};
  if (s.computed >= s.known()) {
    planned.tokens = {-1 - s.last_sample_row};
  } else {
    planned.tokens.assign(s.tokens.begin() + s.computed, s.tokens.begin() + s.computed + rows);
  }
  if (s.request.prompt_logprobs) {
    for (int64_t p = s.computed; p < s.computed + rows; ++p) {
      const bool wanted = p + 1 < s.prompt_len() && p >= s.prompt_targets_issued;
      planned.targets.push_back(wanted ? s.request.prompt[static_cast<size_t>(p + 1)] : -1);
      if (wanted) ++issued.targets;
    }
    s.prompt_targets_issued += issued.targets;
  }
  s.computed += rows;
  if (s.computed >= s.known()) {
    planned.sample = issued.sample = true;
    planned.draw_index = static_cast<int32_t>(s.samples_issued++);
    s.last_sample_step = draft.number;
    s.last_sample_row = static_cast<int32_t>(draft.sequences.size());
    draft.all_greedy = draft.all_greedy && Neutral(s.request.params);
    draft.any_logprobs = draft.any_logprobs || s.request.logprobs;
  }
  draft.any_penalties = draft.any_penalties || s.request.params.penalties != 0;
  if (s.slot_is_new) {
    draft.slot_resets.push_back({.slot = s.slot, .params = s.request.params});
    s.slot_is_new = false;
  }
  s.planned_step = draft.number;
  step.budget -= rows;
  draft.sequences.push_back(std::move(planned));
  step.issued.rows.push_back(std::move(issued));
}

bool Scheduler::Reserve(Sequence& s, int64_t rows, Building& step) {
  const int64_t needed = CeilDiv(s.computed + rows, options_.limits.block_size);
  const auto missing = [&] { return needed - static_cast<int64_t>(s.blocks.size()); };
  while (missing() > pool_.available()) {
    if (!PreemptYoungest(s.age, step.draft.number)) return false;
  }
  while (missing() > 0) {
    const int32_t block = pool_.Take();
    step.draft.block_patches.insert(step.draft.block_patches.end(),
                                    {s.slot, static_cast<int32_t>(s.blocks.size()), block});
    s.blocks.push_back(block);
  }
  return true;
}

int64_t Scheduler::ReserveUpTo(Sequence& s, int64_t rows, Building& step) {
  if (Reserve(s, rows, step)) return rows;
  const int64_t blocks = static_cast<int64_t>(s.blocks.size()) + pool_.available();
  const int64_t fitting = std::min(rows, blocks * options_.limits.block_size - s.computed);
  return fitting > 0 && Reserve(s, fitting, step) ? fitting : 0;
}

bool Scheduler::PreemptYoungest(uint64_t older_than, int64_t step_number) {
  for (auto it = running_.rbegin(); it != running_.rend(); ++it) {
    const SequencePtr victim = *it;
    if (victim->age <= older_than) return false;
    if (victim->planned_step == step_number) continue;
    Remove(running_, victim);
    GiveBack(*victim);
    victim->computed = 0;
    InsertByAge(waiting_, victim);
    return true;
  }
  return false;
}

void Scheduler::GiveBack(Sequence& s) {
  pool_.Return(s.blocks);
  s.blocks.clear();
  if (s.slot >= 0) free_slots_.push_back(s.slot);
  s.slot = -1;
  s.last_sample_step = -1;
}

void Scheduler::Finish(const StepResult& result, std::vector<SequenceUpdate>& updates) {
  TESSERA_CHECK(!in_flight_.empty() && in_flight_.front().number == result.number,
                "results of step ", result.number);
  const IssuedStep step = std::move(in_flight_.front());
  in_flight_.pop_front();
  size_t target = 0;
  for (size_t row = 0; row < step.rows.size(); ++row) {
    const IssuedRow& issued = step.rows[row];
    const SequencePtr& s = issued.sequence;
    const auto targets = static_cast<size_t>(issued.targets);
    if (!s->ended) {
      const auto values = result.prompt_logprobs.subspan(target, targets);
      s->prompt_logprobs.insert(s->prompt_logprobs.end(), values.begin(), values.end());
    }
    target += targets;
    if (s->ended || !issued.sample) continue;
    updates.push_back({.id = s->request.id});
    TakeSample(result, row, s, updates.back());
  }
}

void Scheduler::TakeSample(const StepResult& result, size_t row, const SequencePtr& sequence,
                           SequenceUpdate& update) {
  Sequence& s = *sequence;
  SampledToken token = {.id = result.ids[row]};
  TESSERA_CHECK(token.id >= 0, "step ", result.number, " sampled nothing for row ", row);
  if (s.request.logprobs && !result.logprobs.empty()) {
    token.logprob = result.logprobs[row];
    const auto wanted = static_cast<size_t>(s.request.params.logprobs);
    const auto ids = result.top_ids.subspan(row * kMaxTopLogprobs, wanted);
    const auto values = result.top_logprobs.subspan(row * kMaxTopLogprobs, wanted);
    for (size_t i = 0; i < wanted && ids[i] >= 0; ++i) {
      token.top_ids.push_back(ids[i]);
      token.top_logprobs.push_back(values[i]);
    }
  }
  if (!s.first_update_sent) {
    s.first_update_sent = true;
    update.scheduled_unix_us = s.scheduled_unix_us;
    update.prompt_logprobs = std::move(s.prompt_logprobs);
  }
  s.tokens.push_back(token.id);
  const std::vector<int32_t>& stops = s.request.stop_ids;
  if (std::find(stops.begin(), stops.end(), token.id) != stops.end()) {
    update.finish = FinishKind::kStop;
  } else if (s.samples_known() >= s.request.max_tokens) {
    update.finish = FinishKind::kLength;
  }
  update.tokens.push_back(std::move(token));
  if (update.finish != FinishKind::kNone) End(sequence);
}

void Scheduler::End(const SequencePtr& sequence) {
  sequence->ended = true;
  GiveBack(*sequence);
  Remove(running_, sequence);
  Remove(waiting_, sequence);
  sequences_.erase(sequence->request.id);
}

int64_t Scheduler::running() const { return static_cast<int64_t>(running_.size()); }

int64_t Scheduler::LaneLoad(int32_t lane) const {
  return std::count_if(running_.begin(), running_.end(),
                       [&](const SequencePtr& s) { return s->lane == lane; });
}

int64_t Scheduler::InFlight(int32_t lane) const {
  return std::count_if(in_flight_.begin(), in_flight_.end(),
                       [&](const IssuedStep& s) { return s.lane == lane; });
}

}  // namespace tessera
