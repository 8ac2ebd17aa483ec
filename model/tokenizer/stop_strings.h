// Ends a generated text at the first stop string.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include "model/tokenizer/pattern_automaton.h"

namespace tessera {

// Text goes in piece by piece, and comes out once no stop string can begin in it. The match that
// completes first wins; of several that complete on the same byte, the longest. The text is cut
// where the match begins. Time is linear in text and stop strings together. Not safe on several
// threads.
class StopStrings {
 public:
  // `stops` may be empty: then all text comes out at once. kInvalidArgument: a stop string is empty
  // or is not UTF-8.
  static absl::StatusOr<StopStrings> Create(absl::Span<const std::string> stops);

  // Adds the text of one more token (perhaps nothing) and returns what may be shown. After a match
  // it returns nothing and counts no more tokens.
  std::string Feed(absl::string_view text);

  // As Feed, for text that belongs to no further token (TextStream::Flush).
  std::string FeedRest(absl::string_view text);

  // The text still held back, when generation ends without a match; empty after one.
  std::string Flush();

  // Index of the stop string that matched, or -1.
  int64_t matched() const { return matched_; }
  // Tokens fed, up to and with the one that completed the match: those after it are surplus.
  int64_t tokens() const { return tokens_; }

 private:
  StopStrings() = default;
  // Takes the held text less its last `kept` bytes.
  std::string TakeAllBut(size_t kept);

  std::shared_ptr<const PatternAutomaton> automaton_;
  std::vector<int64_t> stop_bytes_;
  PatternAutomaton::State state_ = PatternAutomaton::kStart;
  std::string held_;  // ends with the text the state stands for
  size_t taken_ = 0;  // bytes at the front of held_ that were returned already
  int64_t matched_ = -1;
  int64_t tokens_ = 0;
};

}  // namespace tessera
