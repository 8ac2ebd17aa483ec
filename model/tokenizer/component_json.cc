#include "model/tokenizer/component_json.h"

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/utf8.h"

namespace tessera {

absl::StatusOr<std::string> GetStringPattern(const nlohmann::json& component,
                                             absl::string_view source) {
  ASSIGN_OR_RETURN(const nlohmann::json* pattern, GetObject(component, "pattern", source));
  const std::string pattern_source = absl::StrCat(source, ".pattern");
  ASSIGN_OR_RETURN(const auto regex, FindString(*pattern, "Regex", pattern_source));
  if (regex) {
    return absl::UnimplementedError(absl::StrCat(pattern_source, ": regular expression ",
                                                 DescribeJson(*regex), ", only String is known"));
  }
  ASSIGN_OR_RETURN(std::string text, GetString(*pattern, "String", pattern_source));
  if (text.empty()) {
    return absl::UnimplementedError(absl::StrCat(pattern_source, ": the empty string"));
  }
  return text;
}

absl::Status ForEachComponent(
    const nlohmann::json& component, absl::string_view field, absl::string_view source,
    absl::FunctionRef<absl::Status(const nlohmann::json&, absl::string_view)> visit) {
  ASSIGN_OR_RETURN(const nlohmann::json* parts, GetArray(component, field, source));
  for (size_t i = 0; i < parts->size(); ++i) {
    RETURN_IF_ERROR(visit((*parts)[i], absl::StrCat(source, ".", field, "[", i, "]")));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> GetCharacter(const nlohmann::json& component, absl::string_view field,
                                         absl::string_view source) {
  ASSIGN_OR_RETURN(std::string text, GetString(component, field, source));
  if (text.empty() || ReadUtf8(text).bytes != text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", field, " is ", DescribeJson(text), ", must be one character"));
  }
  return text;
}

}  // namespace tessera
