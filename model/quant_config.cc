#include "model/quant_config.h"

#include <algorithm>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>

#include "common/status_macros.h"
#include "model/json.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr int64_t kMaxGroup = int64_t{1} << 20;
constexpr int64_t kDenseBits = 16;  // and more
constexpr size_t kMaxRules = 65536;
constexpr size_t kMaxPatternText = 65536;  // of all patterns together
constexpr absl::string_view kHead = "lm_head";

absl::Status Unsupported(const json& object, absl::string_view field, absl::string_view source) {
  return absl::UnimplementedError(absl::StrCat(source, ": ", field, " is ",
                                               DescribeJson(object[std::string(field)]),
                                               ", which is not supported"));
}

// The integer in `field`, or in its older spelling `alias`.
absl::StatusOr<std::optional<int64_t>> FindIntOr(const json& object, absl::string_view field,
                                                 absl::string_view alias,
                                                 absl::string_view source) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> value, FindInt(object, field, source));
  if (value) return value;
  return FindInt(object, alias, source);
}

// The text in `field`, or in its other spelling `alias`, in lower case.
absl::StatusOr<std::string> TextOr(const json& object, absl::string_view field,
                                   absl::string_view alias, absl::string_view fallback,
                                   absl::string_view source) {
  ASSIGN_OR_RETURN(std::optional<std::string> value, FindString(object, field, source));
  if (!value) {
    ASSIGN_OR_RETURN(value, FindString(object, alias, source));
  }
  return absl::AsciiStrToLower(value ? absl::string_view(*value) : fallback);
}

// The keys of the object `field` in the order of the text: of a text that is the object itself, or
// a config.json with it under quantization_config.
std::vector<std::string> KeysInOrder(absl::string_view text, const std::string& field,
                                     const json& object) {
  std::vector<std::string> keys;
  const auto all = nlohmann::ordered_json::parse(text.begin(), text.end(), nullptr, false);
  const nlohmann::ordered_json* at = &all;
  if (at->is_object() && at->contains("quantization_config")) at = &(*at)["quantization_config"];
  if (at->is_object() && at->contains(field) && (*at)[field].is_object()) {
    for (const auto& [key, value] : (*at)[field].items()) keys.push_back(key);
  } else {
    for (const auto& [key, value] : object.items()) keys.push_back(key);
  }
  return keys;
}

// Fields that a rule may state anew: bits, group and symmetry.
absl::Status ReadScheme(const json& object, absl::string_view source, QuantFormat& format) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> bits, FindIntOr(object, "bits", "w_bit", source));
  if (bits && *bits != 2 && *bits != 3 && *bits != 4 && *bits != 8) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": bits is ", *bits, ", must be 2, 3, 4 or 8"));
  }
  if (bits) format.bits = static_cast<int>(*bits);
  ASSIGN_OR_RETURN(const std::optional<int64_t> group,
                   FindIntOr(object, "group_size", "q_group_size", source));
  if (group) format.group = *group;
  const bool whole_words = format.group > 0 && format.group <= kMaxGroup && format.group % 8 == 0;
  if (format.group != -1 && !whole_words) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": group_size is ", format.group,
                                                   ", must be -1 or a multiple of 8 up to ",
                                                   kMaxGroup));
  }
  if (format.group != -1 && !IsKernelGroup(format.group)) {
    return absl::UnimplementedError(
        absl::StrCat(source, ": group_size is ", format.group,
                     ", supported are -1, 32, 64 and multiples of 128"));
  }
  ASSIGN_OR_RETURN(const std::optional<bool> symmetric, FindBool(object, "sym", source));
  if (symmetric) format.symmetric = *symmetric;
  if (FindQuantRow(format.method, format.bits) == nullptr) {
    return absl::UnimplementedError(absl::StrCat(
        source, ": bits is ", format.bits, ", supported are 2, 3, 4 and 8 of gptq and 4 of awq"));
  }
  return absl::OkStatus();
}

absl::Status ReadActOrder(const json& object, absl::string_view source, QuantFormat& format) {
  ASSIGN_OR_RETURN(const std::optional<bool> ordered, FindBool(object, "desc_act", source));
  ASSIGN_OR_RETURN(const std::optional<bool> fixed, FindBool(object, "static_groups", source));
  if (ordered) format.act_order = *ordered;
  if (fixed.value_or(false) || format.group == -1) format.act_order = false;
  return absl::OkStatus();
}

}  // namespace

// Fills a QuantConfig from one object.
class QuantConfig::Reader {
 public:
  Reader(const json& object, absl::string_view source, absl::string_view text)
      : object_(object), source_(source), text_(text) {}

  absl::StatusOr<QuantConfig> Read() {
    config_.source_ = std::string(source_);
    ASSIGN_OR_RETURN(std::string method, TextOr(object_, "quant_method", "method", "", source_));
    if (method.empty()) method = MethodOfOldFile();
    if (method.empty()) {
      ASSIGN_OR_RETURN(method, GetString(object_, "quant_method", source_));
    }
    if (method == "gptq" || method == "gptq_v2") {
      RETURN_IF_ERROR(ReadGptq(method));
    } else if (method == "awq") {
      RETURN_IF_ERROR(ReadAwq());
    } else if (method == "auto-round" || method == "intel/auto-round") {
      RETURN_IF_ERROR(ReadAutoRound());
    } else {
      return absl::UnimplementedError(absl::StrCat(source_, ": quant_method is ",
                                                   DescribeJson(json(method)),
                                                   ", supported are gptq, awq and auto-round"));
    }
    return std::move(config_);
  }

 private:
  // AutoGPTQ's quantize_config.json and AutoAWQ's quant_config.json may name no method.
  std::string MethodOfOldFile() const {
    const auto has = [&](const char* field) { return object_.contains(field); };
    if (!object_.is_object() || object_.contains("quant_method")) return "";
    if (has("zero_point") && (has("w_bit") || has("q_group_size"))) return "awq";
    return has("desc_act") && has("bits") ? "gptq" : "";
  }

  absl::Status ReadBase() {
    for (const auto& [field, alias] :
         {std::pair("bits", "w_bit"), {"group_size", "q_group_size"}}) {
      ASSIGN_OR_RETURN(const std::optional<int64_t> value,
                       FindIntOr(object_, field, alias, source_));
      if (!value) return GetInt(object_, field, source_).status();  // the error of an absent field
    }
    return ReadScheme(object_, source_, config_.base_);
  }

  absl::Status ReadGptq(absl::string_view method) {
    QuantFormat& base = config_.base_;
    base.method = QuantMethod::kGptq;
    RETURN_IF_ERROR(ReadBase());
    RETURN_IF_ERROR(ReadActOrder(object_, source_, base));
    ASSIGN_OR_RETURN(const std::optional<bool> marlin,
                     FindBool(object_, "is_marlin_format", source_));
    if (marlin.value_or(false)) return Unsupported(object_, "is_marlin_format", source_);
    ASSIGN_OR_RETURN(const std::string written,
                     TextOr(object_, "checkpoint_format", "format", method, source_));
    if (written != "gptq" && written != "gptq_v2") {
      const bool alias = !object_.contains("checkpoint_format");
      return Unsupported(object_, alias ? "format" : "checkpoint_format", source_);
    }
    base.zero_rule = written == "gptq_v2" ? ZeroRule::kAsStored : ZeroRule::kMinusOne;
    ASSIGN_OR_RETURN(const std::string word, TextOr(object_, "pack_dtype", "", "int32", source_));
    if (word != "int32") return Unsupported(object_, "pack_dtype", source_);
    ASSIGN_OR_RETURN(const std::optional<bool> head, FindBool(object_, "lm_head", source_));
    config_.head_ = head.value_or(false);
    ASSIGN_OR_RETURN(const json* dynamic, FindObject(object_, "dynamic", source_));
    return dynamic == nullptr ? absl::OkStatus() : ReadDynamic(*dynamic);
  }

  // GPTQModel's overrides: {"-:pattern": left dense, "+:pattern" or "pattern": {field: value}}.
  absl::Status ReadDynamic(const json& dynamic) {
    for (const std::string& key : KeysInOrder(text_, "dynamic", dynamic)) {
      if (!dynamic.contains(key)) continue;
      const std::string where = absl::StrCat(source_, ": dynamic ", DescribeJson(json(key)));
      absl::string_view pattern = key;
      const bool dense = absl::ConsumePrefix(&pattern, "-:") || dynamic[key] == json(false);
      absl::ConsumePrefix(&pattern, "+:");
      QuantFormat format = dense ? QuantFormat() : config_.base_;
      if (!dense) {
        RETURN_IF_ERROR(ReadScheme(dynamic[key], where, format));
        RETURN_IF_ERROR(ReadActOrder(dynamic[key], where, format));
      }
      RETURN_IF_ERROR(AddPattern(Match::kAtStart, pattern, format, where));
    }
    return absl::OkStatus();
  }

  absl::Status ReadAwq() {
    QuantFormat& base = config_.base_;
    base.method = QuantMethod::kAwq;
    base.zero_rule = ZeroRule::kAsStored;
    RETURN_IF_ERROR(ReadBase());
    ASSIGN_OR_RETURN(const std::string version, TextOr(object_, "version", "", "gemm", source_));
    if (version != "gemm") return Unsupported(object_, "version", source_);
    ASSIGN_OR_RETURN(const std::optional<bool> zero_point,
                     FindBool(object_, "zero_point", source_));
    base.symmetric = !zero_point.value_or(true);
    ASSIGN_OR_RETURN(const json* kept, FindArray(object_, "modules_to_not_convert", source_));
    if (kept == nullptr) return absl::OkStatus();
    for (const json& part : *kept) {
      if (!part.is_string()) {
        return absl::InvalidArgumentError(absl::StrCat(source_, ": modules_to_not_convert has ",
                                                       DescribeJson(part), ", must be strings"));
      }
      RETURN_IF_ERROR(AddRule(
          {.match = Match::kPart,
           .text = part.get<std::string>(),
           .where = absl::StrCat(source_, ": modules_to_not_convert ", DescribeJson(part))}));
    }
    return absl::OkStatus();
  }

  absl::Status ReadAutoRound() {
    QuantFormat& base = config_.base_;
    ASSIGN_OR_RETURN(const std::string packing,
                     TextOr(object_, "packing_format", "backend", "auto", source_));
    base.method = QuantMethod::kGptq;
    if (packing == "auto_round:auto_awq" || packing == "auto_round:awq") {
      base.method = QuantMethod::kAwq;
      base.zero_rule = ZeroRule::kAsStored;
    } else if (packing == "auto_round" || packing == "auto_round:gptqmodel" ||
               packing == "auto_round:exllamav2") {
      base.zero_rule = ZeroRule::kAsStored;
    } else if (packing != "auto" && packing != "auto_round:auto_gptq" &&
               packing != "auto_round:gptq" && packing != "auto_round:gptq:exllamav2") {
      return Unsupported(object_, object_.contains("packing_format") ? "packing_format" : "backend",
                         source_);
    }
    RETURN_IF_ERROR(CheckDataType(object_, source_));
    RETURN_IF_ERROR(ReadBase());
    ASSIGN_OR_RETURN(const json* extra, FindObject(object_, "extra_config", source_));
    return extra == nullptr ? absl::OkStatus() : ReadExtra(*extra);
  }

  // Weights are integers, activations floats.
  static absl::Status CheckDataType(const json& object, absl::string_view source) {
    ASSIGN_OR_RETURN(const std::string type, TextOr(object, "data_type", "", "int", source));
    if (type != "int") return Unsupported(object, "data_type", source);
    ASSIGN_OR_RETURN(const std::optional<int64_t> bits, FindInt(object, "act_bits", source));
    if (bits.value_or(kDenseBits) < kDenseBits) return Unsupported(object, "act_bits", source);
    return absl::OkStatus();
  }

  // auto-round's exceptions: {layer name or pattern: {field: value}}; names go before patterns.
  absl::Status ReadExtra(const json& extra) {
    std::vector<std::string> keys = KeysInOrder(text_, "extra_config", extra);
    std::stable_partition(keys.begin(), keys.end(),
                          [](const std::string& key) { return !HasPatternSyntax(key); });
    for (const std::string& key : keys) {
      if (!extra.contains(key)) continue;
      const json& change = extra[key];
      const std::string where = absl::StrCat(source_, ": extra_config ", DescribeJson(json(key)));
      QuantFormat format;
      ASSIGN_OR_RETURN(const bool dense, IsDense(change, where));
      if (!dense) {
        format = config_.base_;
        RETURN_IF_ERROR(CheckDataType(change, where));
        RETURN_IF_ERROR(ReadScheme(change, where, format));
      }
      if (HasPatternSyntax(key)) {
        RETURN_IF_ERROR(AddPattern(Match::kWithin, key, format, where));
      } else {
        RETURN_IF_ERROR(
            AddRule({.match = Match::kName, .text = key, .format = format, .where = where}));
      }
    }
    return absl::OkStatus();
  }

  static absl::StatusOr<bool> IsDense(const json& change, absl::string_view where) {
    ASSIGN_OR_RETURN(const std::optional<int64_t> bits, FindInt(change, "bits", where));
    if (bits.value_or(0) >= kDenseBits) return true;
    ASSIGN_OR_RETURN(const std::string type, TextOr(change, "data_type", "", "int", where));
    return type == "fp" || type == "float" || type == "bfloat" || type == "fp16" || type == "bf16";
  }

  absl::Status AddPattern(Match match, absl::string_view pattern, const QuantFormat& format,
                          const std::string& where) {
    pattern_text_ += pattern.size();
    if (pattern_text_ > kMaxPatternText) {
      return absl::UnimplementedError(
          absl::StrCat(source_, ": patterns of more than ", kMaxPatternText, " bytes together"));
    }
    absl::StatusOr<NamePattern> parsed = NamePattern::Parse(pattern);
    if (!parsed.ok())
      return absl::Status(parsed.status().code(),
                          absl::StrCat(where, ": ", parsed.status().message()));
    return AddRule({.match = match,
                    .text = std::string(pattern),
                    .pattern = *std::move(parsed),
                    .format = format,
                    .where = where});
  }

  absl::Status AddRule(Rule rule) {
    config_.rules_.push_back(std::move(rule));
    if (config_.rules_.size() <= kMaxRules) return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrCat(source_, ": more than ", kMaxRules, " rules for single layers"));
  }

  const json& object_;
  const absl::string_view source_, text_;
  QuantConfig config_;
  size_t pattern_text_ = 0;
};

absl::StatusOr<QuantConfig> QuantConfig::Parse(const json& quantization, absl::string_view source,
                                               absl::string_view text) {
  return Reader(quantization, source, text).Read();
}

QuantStatement QuantConfig::Of(absl::string_view module) const {
  for (const Rule& rule : rules_) {
    bool hit = false;
    switch (rule.match) {
      case Match::kName:
        hit = rule.text == module;
        break;
      case Match::kAtStart:
        hit = rule.pattern->MatchesStart(module);
        break;
      case Match::kWithin:
        hit = rule.pattern->MatchesWithin(module);
        break;
      case Match::kPart:
        hit = absl::StrContains(module, rule.text);
        break;
    }
    if (hit) return {rule.format, rule.match != Match::kPart, rule.where};
  }
  if (module == kHead && !head_) return {{}, false, source_};
  return {base_, false, source_};
}

}  // namespace tessera
