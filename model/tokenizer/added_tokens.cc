#include "model/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/unicode_class.h"
#include "model/tokenizer/utf8.h"

namespace tessera {
namespace {

constexpr size_t kMaxContentBytes = 4096;
constexpr size_t kMaxAllContentBytes = size_t{8} << 20;

bool EndsWithWord(absl::string_view text) {
  return !text.empty() && IsWord(ClassOf(CodePointBefore(text, text.size())));
}

bool StartsWithWord(absl::string_view text) {
  size_t pos = 0;
  return !text.empty() && IsWord(ClassOf(NextCodePoint(text, &pos)));
}

// Where the white space right before `end` begins; looks no further back than `limit`.
size_t SpacesBefore(absl::string_view text, size_t end, size_t limit) {
  while (end > limit) {
    const char32_t c = CodePointBefore(text, end);
    if (ClassOf(c) != CharClass::kSpace) break;
    end -= c < 0x80 ? 1 : c < 0x800 ? 2 : 3;  // no white space lies above U+FFFF
  }
  return end;
}

// Where white space ends, remembering the last run so that a run is read once, however many tokens
// inside it ask.
class SpaceRuns {
 public:
  explicit SpaceRuns(absl::string_view text) : text_(text) {}
  size_t EndOfRunAt(size_t begin) {
    if (begin >= run_begin_ && begin < run_end_) return run_end_;
    run_begin_ = begin;
    run_end_ = begin;
    while (run_end_ < text_.size()) {
      size_t next = run_end_;
      if (ClassOf(NextCodePoint(text_, &next)) != CharClass::kSpace) break;
      run_end_ = next;
    }
    return run_end_;
  }

 private:
  absl::string_view text_;
  size_t run_begin_ = 0;
  size_t run_end_ = 0;
};

}  // namespace

absl::StatusOr<AddedTokens> AddedTokens::Parse(const nlohmann::json& value, const BpeModel& model,
                                               const Normalizer& normalizer,
                                               absl::string_view source) {
  AddedTokens added;
  if (!value.is_null() && !value.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, " is ", DescribeJson(value), ", must be an array"));
  }
  size_t content_bytes = 0;
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string item = absl::StrCat(source, "[", i, "]");
    RETURN_IF_ERROR(added.Add(value[i], model, normalizer, item));
    const AddedToken& token = added.tokens_.back();
    content_bytes += token.content.size() + token.decoded.size();
    if (token.decoded.empty() || token.decoded.size() > kMaxContentBytes ||
        content_bytes > kMaxAllContentBytes) {
      return absl::DataLossError(absl::StrCat(item, ": content of ", token.decoded.size(),
                                              " bytes, must be from 1 to ", kMaxContentBytes, ", ",
                                              kMaxAllContentBytes, " in all"));
    }
  }
  for (const Stage stage : {Stage::kRaw, Stage::kNormalized}) {
    absl::flat_hash_set<absl::string_view> seen;
    for (const AddedToken& token : added.tokens_) {
      if (token.normalized != (stage == Stage::kNormalized)) continue;
      if (!seen.insert(token.decoded).second) {
        return absl::DataLossError(
            absl::StrCat(source, ": two tokens are matched as ", DescribeJson(token.decoded)));
      }
    }
    added.BuildStage(stage);
  }
  return added;
}

absl::Status AddedTokens::Add(const nlohmann::json& value, const BpeModel& model,
                              const Normalizer& normalizer, absl::string_view source) {
  AddedToken token = {};
  ASSIGN_OR_RETURN(token.content, GetString(value, "content", source));
  ASSIGN_OR_RETURN(token.special, GetBool(value, "special", source));
  ASSIGN_OR_RETURN(token.single_word, GetBool(value, "single_word", source));
  ASSIGN_OR_RETURN(token.lstrip, GetBool(value, "lstrip", source));
  ASSIGN_OR_RETURN(token.rstrip, GetBool(value, "rstrip", source));
  ASSIGN_OR_RETURN(token.normalized, GetBool(value, "normalized", source));
  ASSIGN_OR_RETURN(const int64_t id, GetInt(value, "id", source));
  const int64_t expected = model.FindId(token.content).value_or(model.size() + new_tokens_);
  if (id != expected || id > kMaxTokenId) {
    return absl::DataLossError(absl::StrCat(source, ": id of ", DescribeJson(token.content), " is ",
                                            id, ", its place in the vocabulary is ", expected,
                                            ", at most ", kMaxTokenId));
  }
  token.id = static_cast<int32_t>(id);
  token.decoded = token.normalized ? normalizer.Apply(token.content) : token.content;
  if (!by_content_.emplace(token.content, tokens_.size()).second) {
    return absl::DataLossError(
        absl::StrCat(source, ": ", DescribeJson(token.content), " appears twice"));
  }
  if (!by_id_.emplace(token.id, tokens_.size()).second) {
    return absl::DataLossError(absl::StrCat(source, ": id ", id, " is already that of ",
                                            DescribeJson(Find(token.id)->content)));
  }
  if (!model.FindId(token.content)) ++new_tokens_;
  if (token.special) special_.insert(token.content);
  id_end_ = std::max(id_end_, id + 1);
  tokens_.push_back(std::move(token));
  return absl::OkStatus();
}

void AddedTokens::BuildStage(Stage stage) {
  StageTokens& target = stage == Stage::kRaw ? raw_ : normalized_;
  std::vector<std::string> backwards;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i].normalized != (stage == Stage::kNormalized)) continue;
    backwards.emplace_back(tokens_[i].decoded.rbegin(), tokens_[i].decoded.rend());
    target.pattern.push_back(i);
  }
  const std::vector<absl::string_view> views(backwards.begin(), backwards.end());
  target.automaton = PatternAutomaton(views);
}

const AddedTokens::StageTokens& AddedTokens::OfStage(Stage stage) const {
  return stage == Stage::kRaw ? raw_ : normalized_;
}

const AddedToken* AddedTokens::Find(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::Find(absl::string_view content) const {
  const auto found = by_content_.find(content);
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

// The longest token that begins at each position comes from one pass from the end to the front, in
// which the automaton of the tokens spelled backwards reports what ends there.
std::vector<AddedTokens::Match> AddedTokens::FindMatches(const StageTokens& stage,
                                                         absl::string_view text) const {
  std::vector<Match> matches;
  if (stage.pattern.empty()) return matches;
  PatternAutomaton::State state = PatternAutomaton::kStart;
  for (size_t begin = text.size(); begin-- > 0;) {
    state = stage.automaton.Step(state, text[begin]);
    const int32_t pattern = stage.automaton.LongestMatch(state);
    if (pattern == PatternAutomaton::kNoPattern) continue;
    const AddedToken& token = tokens_[stage.pattern[static_cast<size_t>(pattern)]];
    matches.push_back({begin, begin + token.decoded.size(), &token});
  }
  std::reverse(matches.begin(), matches.end());
  size_t end = 0;
  const auto overlaps = [&end](const Match& match) {
    if (match.begin < end) return true;
    end = match.end;
    return false;
  };
  matches.erase(std::remove_if(matches.begin(), matches.end(), overlaps), matches.end());
  return matches;
}

void AddedTokens::Split(Stage stage, absl::string_view text, const Visitor& visitor) const {
  SpaceRuns spaces(text);
  size_t done = 0;
  for (const Match& match : FindMatches(OfStage(stage), text)) {
    const AddedToken& token = *match.token;
    if (!visitor.allowed(token, match.begin, match.end)) continue;
    if (token.single_word &&
        (EndsWithWord(text.substr(0, match.begin)) || StartsWithWord(text.substr(match.end)))) {
      continue;
    }
    // A token with rstrip may have swallowed white space that is a token itself. As in the library,
    // that token counts all the same and `done` may go back, unless lstrip leaves nothing of it.
    size_t begin = match.begin;
    if (token.lstrip) begin = std::max(SpacesBefore(text, begin, done), done);
    if (done < begin) visitor.plain(done, begin);
    done = token.rstrip ? spaces.EndOfRunAt(match.end) : match.end;
    if (begin < done) visitor.token(token.id);
  }
  if (done < text.size()) visitor.plain(done, text.size());
}

}  // namespace tessera
