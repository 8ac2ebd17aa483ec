#include "coordinator/journal.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace tessera {

JournalEntry& Journal::Open(uint64_t key, CheckedRequest request, uint64_t first_sequence) {
  auto [place, is_new] = entries_.try_emplace(key);
  TESSERA_CHECK(is_new, "key=", key);
  JournalEntry& entry = place->second;
  entry.choices.resize(static_cast<size_t>(request.choices));
  for (size_t i = 0; i < entry.choices.size(); ++i) entry.choices[i].sequence = first_sequence + i;
  entry.request = std::move(request);
  return entry;
}

void Journal::Append(uint64_t key, int choice, absl::Span<const int32_t> tokens) {
  auto& kept = entries_.at(key).choices.at(static_cast<size_t>(choice)).tokens;
  kept.insert(kept.end(), tokens.begin(), tokens.end());
}

void Journal::Finish(uint64_t key, int choice, v1::FinishReason reason) {
  entries_.at(key).choices.at(static_cast<size_t>(choice)).finish = reason;
}

void Journal::Close(uint64_t key) { entries_.erase(key); }

const JournalEntry* Journal::Find(uint64_t key) const {
  const auto place = entries_.find(key);
  return place == entries_.end() ? nullptr : &place->second;
}

v1::Usage Journal::UsageOf(uint64_t key, int choice) const {
  const JournalEntry& entry = entries_.at(key);
  v1::Usage usage;
  usage.set_prompt_tokens(static_cast<int64_t>(entry.request.prompt.size()));
  usage.set_completion_tokens(
      static_cast<int64_t>(entry.choices.at(static_cast<size_t>(choice)).tokens.size()));
  return usage;
}

bool Journal::AllFinished(uint64_t key) const {
  const auto& choices = entries_.at(key).choices;
  return std::all_of(choices.begin(), choices.end(), [](const JournalChoice& choice) {
    return choice.finish != v1::FINISH_REASON_UNSPECIFIED;
  });
}

}  // namespace tessera
