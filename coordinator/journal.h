// The live streams of one model: what was asked and the tokens so far. It holds all that is needed
// to say how far a stream came, and to continue it elsewhere.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include <absl/types/span.h>

#include "coordinator/request_check.h"
#include "proto/inference.pb.h"

namespace tessera {

struct JournalChoice {
  uint64_t sequence = 0;  // its number at the leader
  std::vector<int32_t> tokens;
  v1::FinishReason finish = v1::FINISH_REASON_UNSPECIFIED;
};

struct JournalEntry {
  CheckedRequest request;
  std::vector<JournalChoice> choices;  // request.choices of them
};

// Not thread-safe: its owner's mutex guards it.
class Journal {
 public:
  // Opens an entry, with choice i under the sequence number first_sequence + i; `key` must be
  // unused. The reference holds until Close.
  JournalEntry& Open(uint64_t key, CheckedRequest request, uint64_t first_sequence);
  void Append(uint64_t key, int choice, absl::Span<const int32_t> tokens);
  void Finish(uint64_t key, int choice, v1::FinishReason reason);
  void Close(uint64_t key);

  // Null: no such entry.
  const JournalEntry* Find(uint64_t key) const;
  // Prompt tokens and tokens so far of one choice.
  v1::Usage UsageOf(uint64_t key, int choice) const;
  // Whether every choice has a finish reason.
  bool AllFinished(uint64_t key) const;
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }

 private:
  std::map<uint64_t, JournalEntry> entries_;
};

}  // namespace tessera
