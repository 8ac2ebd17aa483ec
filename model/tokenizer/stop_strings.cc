#include "model/tokenizer/stop_strings.h"

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "model/tokenizer/utf8.h"

namespace tessera {

absl::StatusOr<StopStrings> StopStrings::Create(absl::Span<const std::string> stops) {
  StopStrings result;
  std::vector<absl::string_view> patterns;
  for (size_t i = 0; i < stops.size(); ++i) {
    if (stops[i].empty() || ValidUtf8Prefix(stops[i]) != stops[i].size()) {
      return absl::InvalidArgumentError(absl::StrCat("stop string ", i, " is ",
                                                     stops[i].empty() ? "empty" : "not UTF-8",
                                                     ", must be UTF-8 of at least one character"));
    }
    patterns.emplace_back(stops[i]);
    result.stop_bytes_.push_back(static_cast<int64_t>(stops[i].size()));
  }
  result.automaton_ = std::make_shared<PatternAutomaton>(patterns);
  return result;
}

std::string StopStrings::Feed(absl::string_view text) {
  if (matched_ < 0) ++tokens_;
  return FeedRest(text);
}

std::string StopStrings::FeedRest(absl::string_view text) {
  if (matched_ >= 0) return "";
  for (size_t i = 0; i < text.size(); ++i) {
    state_ = automaton_->Step(state_, text[i]);
    const int32_t match = automaton_->LongestMatch(state_);
    if (match == PatternAutomaton::kNoPattern) continue;
    matched_ = match;
    absl::StrAppend(&held_, text.substr(0, i + 1));
    return TakeAllBut(static_cast<size_t>(stop_bytes_[static_cast<size_t>(match)]));
  }
  absl::StrAppend(&held_, text);
  // A stop string begins with a whole character, and so does what is held back for it.
  return TakeAllBut(static_cast<size_t>(automaton_->Depth(state_)));
}

std::string StopStrings::Flush() { return matched_ >= 0 ? "" : TakeAllBut(0); }

std::string StopStrings::TakeAllBut(size_t kept) {
  const size_t end = held_.size() - kept;
  std::string taken = held_.substr(taken_, end - taken_);
  taken_ = end;
  // Dropping what was taken moves the rest, so it waits until there is less to move than to drop.
  if (taken_ > kept) {
    held_.erase(0, taken_);
    taken_ = 0;
  }
  return taken;
}

}  // namespace tessera
