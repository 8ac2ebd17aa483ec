#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "model/json.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr int64_t kMaxPositions = int64_t{1} << 24;
constexpr double kMaxTheta = 1e12;
constexpr double kMaxFactor = 1e6;

// The number in `field`, or `fallback` when it is absent; inside [low, high].
absl::StatusOr<double> DoubleIn(const json& object, absl::string_view field,
                                absl::string_view source, std::optional<double> fallback,
                                double low, double high) {
  ASSIGN_OR_RETURN(std::optional<double> value, FindDouble(object, field, source));
  if (!value) value = fallback;
  if (!value) return GetDouble(object, field, source);  // the error of an absent field
  if (!(*value >= low && *value <= high)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", field, " is ", *value, ", must be from ", low, " to ", high));
  }
  return *value;
}

absl::Status ParseLlama3(const json& rope, absl::string_view source, RopeConfig& result) {
  result.kind = RopeKind::kLlama3;
  ASSIGN_OR_RETURN(result.factor, DoubleIn(rope, "factor", source, {}, 1.0, kMaxFactor));
  ASSIGN_OR_RETURN(result.low_freq_factor,
                   DoubleIn(rope, "low_freq_factor", source, {}, 1e-6, kMaxFactor));
  ASSIGN_OR_RETURN(result.high_freq_factor,
                   DoubleIn(rope, "high_freq_factor", source, {}, 1e-6, kMaxFactor));
  if (result.high_freq_factor <= result.low_freq_factor) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": high_freq_factor is ", result.high_freq_factor,
                     ", must be above low_freq_factor ", result.low_freq_factor));
  }
  return absl::OkStatus();
}

// The factor on cos and sin that mscale and mscale_all_dim ask for (0: neither given, the default
// rule): (0.1 m ln f + 1) / (0.1 m_all ln f + 1), as in transformers' modeling_rope_utils.py.
absl::StatusOr<double> YarnAttentionFactor(const json& rope, absl::string_view source,
                                           double factor) {
  ASSIGN_OR_RETURN(const std::optional<double> given, FindDouble(rope, "attention_factor", source));
  if (given) return DoubleIn(rope, "attention_factor", source, {}, 1e-6, kMaxFactor);
  ASSIGN_OR_RETURN(const double mscale, DoubleIn(rope, "mscale", source, 0.0, 0.0, kMaxFactor));
  ASSIGN_OR_RETURN(const double mscale_all,
                   DoubleIn(rope, "mscale_all_dim", source, 0.0, 0.0, kMaxFactor));
  if (mscale == 0.0 || mscale_all == 0.0) return 0.0;
  const double log_factor = std::log(factor);
  return (0.1 * mscale * log_factor + 1.0) / (0.1 * mscale_all * log_factor + 1.0);
}

absl::Status ParseYarn(const json& rope, absl::string_view source, RopeConfig& result) {
  result.kind = RopeKind::kYarn;
  ASSIGN_OR_RETURN(result.factor, DoubleIn(rope, "factor", source, {}, 1.0, kMaxFactor));
  ASSIGN_OR_RETURN(result.attention_factor, YarnAttentionFactor(rope, source, result.factor));
  ASSIGN_OR_RETURN(result.beta_fast, DoubleIn(rope, "beta_fast", source, 32.0, 1e-6, kMaxFactor));
  ASSIGN_OR_RETURN(result.beta_slow, DoubleIn(rope, "beta_slow", source, 1.0, 1e-6, kMaxFactor));
  if (result.beta_fast < result.beta_slow) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": beta_fast is ", result.beta_fast,
                                                   ", must not be below beta_slow ",
                                                   result.beta_slow));
  }
  ASSIGN_OR_RETURN(const std::optional<bool> truncate, FindBool(rope, "truncate", source));
  // Absent is true; null is false, as where transformers tests it.
  result.truncate = truncate.value_or(!rope.contains("truncate"));
  return absl::OkStatus();
}

// The object that holds the scaling: rope_scaling, else rope_parameters, else an empty one.
absl::StatusOr<std::pair<json, std::string>> FindRopeObject(const json& config,
                                                            absl::string_view source) {
  for (const absl::string_view field : {"rope_scaling", "rope_parameters"}) {
    ASSIGN_OR_RETURN(const json* rope, FindObject(config, field, source));
    if (rope == nullptr || rope->empty()) continue;
    const std::string name = absl::StrCat(source, ": ", field);
    for (const auto& [key, value] : rope->items()) {
      if (value.is_object()) {
        return absl::UnimplementedError(
            absl::StrCat(name, ": one rotary embedding per layer type (", key.substr(0, 60), ")"));
      }
    }
    return std::pair(*rope, name);
  }
  return std::pair(json::object(), absl::StrCat(source, ": rope"));
}

// original_max_position_embeddings of the whole config, else of its rope object, else `fallback`:
// transformers' order (modeling_rope_utils.py, standardize_rope_params).
absl::StatusOr<int64_t> OriginalPositions(const json& config, absl::string_view source,
                                          const json& rope, absl::string_view rope_name,
                                          int64_t fallback) {
  constexpr absl::string_view kField = "original_max_position_embeddings";
  for (const auto& [object, name] : {std::pair(&config, source), {&rope, rope_name}}) {
    ASSIGN_OR_RETURN(const std::optional<int64_t> given, FindInt(*object, kField, name));
    if (given) return GetIntIn(*object, kField, name, {1, kMaxPositions});
  }
  return fallback;
}

absl::Status CheckWholeRotation(const json& object, absl::string_view source) {
  ASSIGN_OR_RETURN(const std::optional<double> partial,
                   FindDouble(object, "partial_rotary_factor", source));
  if (partial.value_or(1.0) == 1.0) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(source, ": partial_rotary_factor is ", *partial, ", only 1 is supported"));
}

// The dimension whose wavelength makes `rotations` turns over the original context.
double CorrectionDimension(const RopeConfig& rope, double rotations, double size) {
  const auto positions = static_cast<double>(rope.original_max_positions);
  return size * std::log(positions / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(rope.theta));
}

// The formulas below are modeling_rope_utils.py's in fp32 and in its order of operations, where
// `number / tensor` is the tensor's reciprocal times the number. Models were trained with that
// rounding: one ulp of a frequency is 0.01 radians at 131,072 positions.

// theta^(2 pair / head_size)
float Period(const RopeConfig& rope, int64_t pair, int64_t head_size) {
  const float exponent = static_cast<float>(2 * pair) / static_cast<float>(head_size);
  return static_cast<float>(
      std::pow(static_cast<double>(static_cast<float>(rope.theta)), static_cast<double>(exponent)));
}

// Frequencies between two bounds blend, below them they shrink.
float Llama3Frequency(const RopeConfig& rope, float frequency) {
  const auto factor = static_cast<float>(rope.factor);
  const auto positions = static_cast<double>(rope.original_max_positions);
  const float wavelength = 1.f / frequency * static_cast<float>(2.0 * std::numbers::pi);
  if (wavelength > static_cast<float>(positions / rope.low_freq_factor)) return frequency / factor;
  if (wavelength < static_cast<float>(positions / rope.high_freq_factor)) return frequency;
  const float turns = 1.f / wavelength * static_cast<float>(positions);
  const float blend = (turns - static_cast<float>(rope.low_freq_factor)) /
                      static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  return (1.f - blend) * frequency / factor + blend * frequency;
}

// The pairs between which yarn goes over from the frequency itself to the frequency / factor.
struct YarnRamp {
  double low;
  double high;
};

YarnRamp MakeYarnRamp(const RopeConfig& rope, int64_t head_size) {
  const auto size = static_cast<double>(head_size);
  YarnRamp ramp = {CorrectionDimension(rope, rope.beta_fast, size),
                   CorrectionDimension(rope, rope.beta_slow, size)};
  if (rope.truncate) ramp = {std::floor(ramp.low), std::ceil(ramp.high)};
  ramp = {std::max(ramp.low, 0.0), std::min(ramp.high, size - 1.0)};
  if (ramp.low == ramp.high) ramp.high += 0.001;
  return ramp;
}

float YarnFrequency(const RopeConfig& rope, const YarnRamp& ramp, int64_t pair, float period) {
  const float along = (static_cast<float>(pair) - static_cast<float>(ramp.low)) /
                      static_cast<float>(ramp.high - ramp.low);
  const float own = 1.f - std::clamp(along, 0.f, 1.f);
  return 1.f / (static_cast<float>(rope.factor) * period) * (1.f - own) + 1.f / period * own;
}

}  // namespace

absl::StatusOr<RopeConfig> ParseRope(const json& config, int64_t max_positions,
                                     absl::string_view source) {
  ASSIGN_OR_RETURN(const auto found, FindRopeObject(config, source));
  const auto& [rope, name] = found;
  RETURN_IF_ERROR(CheckWholeRotation(config, source));
  RETURN_IF_ERROR(CheckWholeRotation(rope, name));
  RopeConfig result;
  // A base of 1 or less has no falling frequencies.
  constexpr double kMinTheta = 1.001;
  ASSIGN_OR_RETURN(const double outer,
                   DoubleIn(config, "rope_theta", source, result.theta, kMinTheta, kMaxTheta));
  ASSIGN_OR_RETURN(result.theta, DoubleIn(rope, "rope_theta", name, outer, kMinTheta, kMaxTheta));

  ASSIGN_OR_RETURN(std::optional<std::string> type, FindString(rope, "rope_type", name));
  if (!type) {
    ASSIGN_OR_RETURN(type, FindString(rope, "type", name));
  }
  if (!type || *type == "default") return result;
  ASSIGN_OR_RETURN(result.original_max_positions,
                   OriginalPositions(config, source, rope, name, max_positions));
  if (*type == "llama3") {
    RETURN_IF_ERROR(ParseLlama3(rope, name, result));
  } else if (*type == "yarn") {
    RETURN_IF_ERROR(ParseYarn(rope, name, result));
  } else {
    return absl::UnimplementedError(absl::StrCat(name, ": rope_type is ", DescribeJson(*type),
                                                 ", supported are default, llama3 and yarn"));
  }
  return result;
}

RopeTable MakeRopeTable(const RopeConfig& rope, int64_t head_size) {
  RopeTable table;
  YarnRamp ramp = {};
  if (rope.kind == RopeKind::kYarn) {
    ramp = MakeYarnRamp(rope, head_size);
    const double by_rule = rope.factor > 1.0 ? 0.1 * std::log(rope.factor) + 1.0 : 1.0;
    table.scale = static_cast<float>(rope.attention_factor > 0.0 ? rope.attention_factor : by_rule);
  }
  for (int64_t pair = 0; pair < head_size / 2; ++pair) {
    const float period = Period(rope, pair, head_size);
    float frequency = 1.f / period;
    if (rope.kind == RopeKind::kLlama3) frequency = Llama3Frequency(rope, frequency);
    if (rope.kind == RopeKind::kYarn) frequency = YarnFrequency(rope, ramp, pair, period);
    table.inv_freq.push_back(frequency);
  }
  return table;
}

}  // namespace tessera
