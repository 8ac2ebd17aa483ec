#include "model/tokenizer/normalizer.h"

#include <utility>

#include <absl/algorithm/container.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>

#include "common/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/component_json.h"
#include "model/tokenizer/nfc.h"

namespace tessera {

absl::StatusOr<Normalizer> Normalizer::Parse(const nlohmann::json& value,
                                             absl::string_view source) {
  Normalizer normalizer;
  RETURN_IF_ERROR(normalizer.Append(value, source));
  return normalizer;
}

absl::Status Normalizer::Append(const nlohmann::json& value, absl::string_view source) {
  if (value.is_null()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string type, GetString(value, "type", source));
  if (type == "NFC") {
    steps_.push_back({Step::Kind::kNfc, "", ""});
    return absl::OkStatus();
  }
  if (type == "Prepend") {
    ASSIGN_OR_RETURN(std::string content, GetString(value, "prepend", source));
    steps_.push_back({Step::Kind::kPrepend, "", std::move(content)});
    return absl::OkStatus();
  }
  if (type == "Replace") {
    ASSIGN_OR_RETURN(std::string pattern, GetStringPattern(value, source));
    ASSIGN_OR_RETURN(std::string content, GetString(value, "content", source));
    steps_.push_back({Step::Kind::kReplace, std::move(pattern), std::move(content)});
    return absl::OkStatus();
  }
  if (type == "Sequence") {
    return ForEachComponent(value, "normalizers", source,
                            [this](const nlohmann::json& part, absl::string_view part_source) {
                              return Append(part, part_source);
                            });
  }
  return absl::UnimplementedError(absl::StrCat(source, ": type ", DescribeJson(type),
                                               ", known are NFC, Prepend, Replace, Sequence"));
}

bool Normalizer::MayCutStart() const {
  return absl::c_any_of(steps_, [](const Step& s) { return s.kind == Step::Kind::kReplace; });
}

std::string Normalizer::Apply(absl::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::kNfc:
        result = NormalizeNfc(result);
        break;
      case Step::Kind::kPrepend:
        if (!result.empty()) result.insert(0, step.content);
        break;
      case Step::Kind::kReplace:
        result = absl::StrReplaceAll(result, {{step.pattern, step.content}});
        break;
    }
  }
  return result;
}

}  // namespace tessera
