// The `pre_tokenizer` stage of tokenizer.json: cuts text into the pieces that BPE works on.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <absl/functional/function_ref.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

#include "model/tokenizer/split_pattern.h"

namespace tessera {

class PreTokenizer {
 public:
  // `value` is null (the whole text is one piece), ByteLevel, Split by a known regular expression,
  // Metaspace, or a Sequence of these. `source` names it in messages.
  // kInvalidArgument: a field has the wrong type, or Metaspace contradicts itself.
  // kUnimplemented: any other type, pattern (the message quotes it) or split behavior.
  static absl::StatusOr<PreTokenizer> Parse(const nlohmann::json& value, absl::string_view source);

  // Calls `emit` with each piece in order; none is empty. `text` is valid UTF-8. `at_start` says
  // that it begins where the user's text begins, which Metaspace's "first" scheme depends on.
  // Pieces are valid during the call only.
  void Run(absl::string_view text, bool at_start,
           absl::FunctionRef<void(absl::string_view)> emit) const;

  // True when `at_start` changes what Run does.
  bool DependsOnStart() const;

 private:
  struct Step {
    enum class Kind { kSplit, kByteLevel, kMetaspace };
    enum class Prefix { kNever, kFirst, kAlways };
    Kind kind;
    std::optional<SplitPattern>
        pattern{};                   // kSplit: always there; kByteLevel: none keeps text whole
    Prefix prefix = Prefix::kNever;  // a space or `replacement` goes in front when none is there
    std::string replacement;         // kMetaspace: stands for a space
    bool split = false;              // kMetaspace: every replacement begins a piece
  };
  absl::Status Append(const nlohmann::json& value, absl::string_view source);
  absl::Status AppendSplit(const nlohmann::json& value, absl::string_view source);
  absl::Status AppendMetaspace(const nlohmann::json& value, absl::string_view source);
  void RunFrom(size_t step, absl::string_view text, bool at_start,
               absl::FunctionRef<void(absl::string_view)> emit) const;

  std::vector<Step> steps_;
};

}  // namespace tessera
