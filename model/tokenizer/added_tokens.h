// The `added_tokens` of tokenizer.json: strings that are tokens wherever they stand in a text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>
#include <absl/functional/function_ref.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

#include "model/tokenizer/bpe.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pattern_automaton.h"

namespace tessera {

struct AddedToken {
  int32_t id;
  std::string content;
  std::string decoded;  // what a decoder sees: the normalized content for `normalized` tokens
  bool special;         // left out of decoded text on request
  bool single_word;     // only matches between non-word characters
  bool lstrip, rstrip;  // swallows white space on that side
  bool normalized;      // matches in normalized text, as its own normalized form
};

class AddedTokens {
 public:
  // `value` is null or the array. A token's id is its id in `model`, or else one past the largest
  // id so far (the model's size for the first), which is how the library numbers them; the file's
  // own `id` must agree. `source` names the array in messages. kInvalidArgument: a field has the
  // wrong type. kDataLoss: an id that disagrees, is taken or is beyond kMaxTokenId, a content that
  // is empty, too long (4096 bytes; 8 MiB for all) or twice there, or two tokens that look the same
  // once normalized.
  static absl::StatusOr<AddedTokens> Parse(const nlohmann::json& value, const BpeModel& model,
                                           const Normalizer& normalizer, absl::string_view source);

  // The added token with this id or content; null when there is none.
  const AddedToken* Find(int32_t id) const;
  const AddedToken* Find(absl::string_view content) const;
  // True when `decoded` is the content of a special token (the library's test for skipping).
  bool IsSpecialText(absl::string_view decoded) const { return special_.contains(decoded); }
  // One more than the largest id; 0 when there are no tokens.
  int64_t id_end() const { return id_end_; }
  const std::vector<AddedToken>& tokens() const { return tokens_; }

  // Cuts `text` (valid UTF-8) around the tokens of one stage: leftmost first, longest first, then
  // widened by lstrip and rstrip. Calls `plain(begin, end)` with each non-empty stretch between
  // them and `token(id)` with each token, in order. A match that `allowed(token, begin, end)`
  // refuses, or that single_word rules out, is plain text as a whole. O(n).
  enum class Stage { kRaw, kNormalized };  // which tokens: those with `normalized` false, or true
  struct Visitor {
    absl::FunctionRef<void(size_t, size_t)> plain;
    absl::FunctionRef<void(int32_t)> token;
    absl::FunctionRef<bool(const AddedToken&, size_t, size_t)> allowed;
  };
  void Split(Stage stage, absl::string_view text, const Visitor& visitor) const;

 private:
  struct Match {
    size_t begin, end;
    const AddedToken* token;
  };
  struct StageTokens {
    PatternAutomaton automaton;   // of the tokens spelled backwards
    std::vector<size_t> pattern;  // index in tokens_ of each pattern
  };
  absl::Status Add(const nlohmann::json& value, const BpeModel& model, const Normalizer& normalizer,
                   absl::string_view source);
  void BuildStage(Stage stage);
  std::vector<Match> FindMatches(const StageTokens& stage, absl::string_view text) const;
  const StageTokens& OfStage(Stage stage) const;

  std::vector<AddedToken> tokens_;
  absl::flat_hash_map<int32_t, size_t> by_id_;
  absl::flat_hash_map<std::string, size_t> by_content_;
  absl::flat_hash_set<std::string> special_;
  int64_t id_end_ = 0;
  int64_t new_tokens_ = 0;  // those that are not in the model's vocabulary
  StageTokens raw_;
  StageTokens normalized_;
};

}  // namespace tessera
