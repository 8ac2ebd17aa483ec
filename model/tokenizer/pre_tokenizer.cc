#include "model/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include <absl/algorithm/container.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>

#include "common/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/component_json.h"

namespace tessera {
namespace {

constexpr size_t kMaxShownPattern = 500;

}  // namespace

absl::StatusOr<PreTokenizer> PreTokenizer::Parse(const nlohmann::json& value,
                                                 absl::string_view source) {
  PreTokenizer pre_tokenizer;
  RETURN_IF_ERROR(pre_tokenizer.Append(value, source));
  return pre_tokenizer;
}

absl::Status PreTokenizer::Append(const nlohmann::json& value, absl::string_view source) {
  if (value.is_null()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string type, GetString(value, "type", source));
  if (type == "ByteLevel") {
    ASSIGN_OR_RETURN(const bool prefix, GetBool(value, "add_prefix_space", source));
    ASSIGN_OR_RETURN(const auto use_regex, FindBool(value, "use_regex", source));
    Step step = {.kind = Step::Kind::kByteLevel};
    if (use_regex.value_or(true)) step.pattern = SplitPattern::kGpt2;
    if (prefix) step.prefix = Step::Prefix::kAlways;
    steps_.push_back(std::move(step));
    return absl::OkStatus();
  }
  if (type == "Split") return AppendSplit(value, source);
  if (type == "Metaspace") return AppendMetaspace(value, source);
  if (type == "Sequence") {
    return ForEachComponent(value, "pretokenizers", source,
                            [this](const nlohmann::json& part, absl::string_view part_source) {
                              return Append(part, part_source);
                            });
  }
  return absl::UnimplementedError(absl::StrCat(
      source, ": type ", DescribeJson(type), ", known are ByteLevel, Metaspace, Sequence, Split"));
}

absl::Status PreTokenizer::AppendSplit(const nlohmann::json& value, absl::string_view source) {
  ASSIGN_OR_RETURN(const nlohmann::json* pattern, GetObject(value, "pattern", source));
  ASSIGN_OR_RETURN(const std::string behavior, GetString(value, "behavior", source));
  ASSIGN_OR_RETURN(const auto invert, FindBool(value, "invert", source));
  ASSIGN_OR_RETURN(const auto regex,
                   FindString(*pattern, "Regex", absl::StrCat(source, ".pattern")));
  const std::optional<SplitPattern> known = regex ? FindSplitPattern(*regex) : std::nullopt;
  if (!known) {
    // The whole text of a pattern is wanted in the message, within reason.
    const std::string seen = regex ? regex->substr(0, kMaxShownPattern) : DescribeJson(*pattern);
    return absl::UnimplementedError(
        absl::StrCat(source, ": pattern ", seen,
                     " is none of the patterns known (GPT-2, cl100k and Llama 3, Qwen2)"));
  }
  // The known patterns match all of any text, so that removing what does not match keeps all of it.
  const bool keeps_matches = (behavior == "Isolated" && !invert.value_or(false)) ||
                             (behavior == "Removed" && invert.value_or(false));
  if (!keeps_matches) {
    return absl::UnimplementedError(absl::StrCat(source, ": behavior ", DescribeJson(behavior),
                                                 ", invert ", invert.value_or(false),
                                                 ", known are Isolated and inverted Removed"));
  }
  steps_.push_back({.kind = Step::Kind::kSplit, .pattern = known});
  return absl::OkStatus();
}

absl::Status PreTokenizer::AppendMetaspace(const nlohmann::json& value, absl::string_view source) {
  Step step = {.kind = Step::Kind::kMetaspace};
  ASSIGN_OR_RETURN(step.replacement, GetCharacter(value, "replacement", source));
  ASSIGN_OR_RETURN(const auto split, FindBool(value, "split", source));
  step.split = split.value_or(true);
  ASSIGN_OR_RETURN(const auto scheme, FindString(value, "prepend_scheme", source));
  if (!scheme || *scheme == "always") {
    step.prefix = Step::Prefix::kAlways;
  } else if (*scheme == "first") {
    step.prefix = Step::Prefix::kFirst;
  } else if (*scheme != "never") {
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": prepend_scheme is ", DescribeJson(*scheme), ", must be always, first or never"));
  }
  ASSIGN_OR_RETURN(const auto legacy_prefix, FindBool(value, "add_prefix_space", source));
  if (legacy_prefix.has_value() && !*legacy_prefix) {
    if (step.prefix != Step::Prefix::kNever) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": add_prefix_space is false, but prepend_scheme is not never"));
    }
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

bool PreTokenizer::DependsOnStart() const {
  return absl::c_any_of(steps_, [](const Step& s) { return s.prefix == Step::Prefix::kFirst; });
}

void PreTokenizer::Run(absl::string_view text, bool at_start,
                       absl::FunctionRef<void(absl::string_view)> emit) const {
  RunFrom(0, text, at_start, emit);
}

void PreTokenizer::RunFrom(size_t index, absl::string_view text, bool at_start,
                           absl::FunctionRef<void(absl::string_view)> emit) const {
  if (text.empty()) return;
  if (index == steps_.size()) {
    emit(text);
    return;
  }
  const Step& step = steps_[index];
  const bool metaspace = step.kind == Step::Kind::kMetaspace;
  std::string changed;
  if (metaspace) {
    changed = absl::StrReplaceAll(text, {{" ", step.replacement}});
    text = changed;
  }
  const std::string& space = metaspace ? step.replacement : " ";
  const bool wants_prefix =
      step.prefix == Step::Prefix::kAlways || (step.prefix == Step::Prefix::kFirst && at_start);
  if (wants_prefix && !absl::StartsWith(text, space)) {
    changed = absl::StrCat(space, text);
    text = changed;
  }
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.size();
    if (step.pattern) {
      end = SplitEnd(*step.pattern, text, begin);
    } else if (metaspace && step.split) {
      // Searching behind the first byte is enough: no character begins inside another.
      end = std::min(text.find(step.replacement, begin + 1), text.size());
    }
    const absl::string_view piece = text.substr(begin, end - begin);
    if (step.kind == Step::Kind::kByteLevel) {
      RunFrom(index + 1, ToByteLevel(piece), at_start && begin == 0, emit);
    } else {
      RunFrom(index + 1, piece, at_start && begin == 0, emit);
    }
    begin = end;
  }
}

}  // namespace tessera
