// The `normalizer` stage of tokenizer.json: what happens to text before it is cut.
#pragma once

#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

namespace tessera {

class Normalizer {
 public:
  // `value` is null, NFC, Prepend, Replace with a string pattern, or a Sequence of these. `source`
  // names it in messages. kInvalidArgument: a field has the wrong type. kUnimplemented: any other
  // type, or a Replace by regular expression or of the empty string.
  static absl::StatusOr<Normalizer> Parse(const nlohmann::json& value, absl::string_view source);

  // `text` is valid UTF-8, and so is the result. Prepend does nothing to an empty text.
  std::string Apply(absl::string_view text) const;

  // True when text may begin with what was not its beginning before.
  bool MayCutStart() const;

 private:
  struct Step {
    enum class Kind { kNfc, kPrepend, kReplace };
    Kind kind;
    std::string pattern;  // kReplace; never empty
    std::string content;  // kReplace: what replaces it; kPrepend: what goes in front
  };
  absl::Status Append(const nlohmann::json& value, absl::string_view source);

  std::vector<Step> steps_;
};

}  // namespace tessera
