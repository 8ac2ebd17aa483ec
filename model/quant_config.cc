#include "model/quant_config.h"

#include <optional>
#include <string>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "model/json.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr int64_t kMaxGroup = int64_t{1} << 20;

absl::Status Unsupported(const json& object, absl::string_view field, absl::string_view source) {
  return absl::UnimplementedError(absl::StrCat(source, ": ", field, " is ",
                                               DescribeJson(object[std::string(field)]),
                                               ", which is not supported"));
}

// The integer in `field`, or in its older spelling `alias`.
absl::StatusOr<int64_t> GetIntOr(const json& object, absl::string_view field,
                                 absl::string_view alias, absl::string_view source) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> value, FindInt(object, field, source));
  if (value) return *value;
  ASSIGN_OR_RETURN(const std::optional<int64_t> aliased, FindInt(object, alias, source));
  if (aliased) return *aliased;
  return GetInt(object, field, source);  // the error of an absent field
}

// Fills in bits and group, which both methods spell alike.
absl::Status ParseBitsAndGroup(const json& object, absl::string_view source, QuantFormat& format) {
  ASSIGN_OR_RETURN(const int64_t bits, GetIntOr(object, "bits", "w_bit", source));
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": bits is ", bits, ", must be 2, 3, 4 or 8"));
  }
  const bool supported = bits == 4 || (bits == 8 && format.method == QuantMethod::kGptq);
  if (!supported) {
    return absl::UnimplementedError(
        absl::StrCat(source, ": bits is ", bits, ", supported are gptq 4, gptq 8 and awq 4"));
  }
  format.bits = static_cast<int>(bits);
  ASSIGN_OR_RETURN(format.group, GetIntOr(object, "group_size", "q_group_size", source));
  const bool whole_words = format.group > 0 && format.group <= kMaxGroup && format.group % 8 == 0;
  if (format.group != -1 && !whole_words) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": group_size is ", format.group,
                                                   ", must be -1 or a multiple of 8 up to ",
                                                   kMaxGroup));
  }
  return absl::OkStatus();
}

// Refuses a true `field`.
absl::Status WantFalse(const json& object, absl::string_view field, absl::string_view source) {
  ASSIGN_OR_RETURN(const std::optional<bool> value, FindBool(object, field, source));
  return value.value_or(false) ? Unsupported(object, field, source) : absl::OkStatus();
}

// Refuses a text in `field` other than `wanted`, in any case.
absl::Status WantText(const json& object, absl::string_view field, absl::string_view wanted,
                      absl::string_view source) {
  ASSIGN_OR_RETURN(const std::optional<std::string> value, FindString(object, field, source));
  if (!value || absl::AsciiStrToLower(*value) == wanted) return absl::OkStatus();
  return Unsupported(object, field, source);
}

absl::Status ParseGptq(const json& object, absl::string_view source, QuantFormat& format) {
  format.method = QuantMethod::kGptq;
  RETURN_IF_ERROR(ParseBitsAndGroup(object, source, format));
  RETURN_IF_ERROR(WantFalse(object, "desc_act", source));
  RETURN_IF_ERROR(WantFalse(object, "is_marlin_format", source));
  RETURN_IF_ERROR(WantFalse(object, "lm_head", source));
  RETURN_IF_ERROR(WantText(object, "checkpoint_format", "gptq", source));
  RETURN_IF_ERROR(WantText(object, "pack_dtype", "int32", source));
  ASSIGN_OR_RETURN(const json* dynamic, FindObject(object, "dynamic", source));
  if (dynamic != nullptr && !dynamic->empty()) return Unsupported(object, "dynamic", source);
  ASSIGN_OR_RETURN(const std::optional<bool> symmetric, FindBool(object, "sym", source));
  format.symmetric = symmetric.value_or(true);
  return absl::OkStatus();
}

absl::Status ParseAwq(const json& object, absl::string_view source, QuantFormat& format) {
  format.method = QuantMethod::kAwq;
  RETURN_IF_ERROR(ParseBitsAndGroup(object, source, format));
  RETURN_IF_ERROR(WantText(object, "version", "gemm", source));
  ASSIGN_OR_RETURN(const json* kept, FindArray(object, "modules_to_not_convert", source));
  if (kept != nullptr && !kept->empty())
    return Unsupported(object, "modules_to_not_convert", source);
  ASSIGN_OR_RETURN(const std::optional<bool> zero_point, FindBool(object, "zero_point", source));
  format.symmetric = !zero_point.value_or(true);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<QuantFormat> ParseQuantConfig(const json& quantization, absl::string_view source) {
  ASSIGN_OR_RETURN(const std::string method, GetString(quantization, "quant_method", source));
  QuantFormat format;
  if (method == "gptq") {
    RETURN_IF_ERROR(ParseGptq(quantization, source, format));
  } else if (method == "awq") {
    RETURN_IF_ERROR(ParseAwq(quantization, source, format));
  } else {
    return absl::UnimplementedError(absl::StrCat(source, ": quant_method is ", DescribeJson(method),
                                                 ", supported are gptq and awq"));
  }
  return format;
}

}  // namespace tessera
