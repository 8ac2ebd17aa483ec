#include "model/generation_config.h"

#include <limits>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"
#include "model/file.h"
#include "model/json.h"
#include "model/token_ids.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr int64_t kMaxFileBytes = int64_t{1} << 20;
constexpr int64_t kMaxNewTokens = int64_t{1} << 24;
constexpr double kMaxTemperature = 100.0;
constexpr double kMaxPenalty = 100.0;
constexpr int64_t kMaxTopK = std::numeric_limits<int32_t>::max();

enum class Low { kIncluded, kExcluded };

struct DoubleRange {
  double low;
  Low low_end;
  double high;
};

// Sets `value` to the field's, which must be in range, unless it is absent.
absl::Status Read(const json& object, absl::string_view field, absl::string_view source,
                  DoubleRange range, double& value) {
  ASSIGN_OR_RETURN(const std::optional<double> found, FindDouble(object, field, source));
  if (!found) return absl::OkStatus();
  const bool above = range.low_end == Low::kIncluded ? *found >= range.low : *found > range.low;
  if (!above || *found > range.high) {
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": ", field, " is ", *found, ", must be ",
        range.low_end == Low::kIncluded ? "from " : "above ", range.low, " to ", range.high));
  }
  value = *found;
  return absl::OkStatus();
}

absl::Status ReadSampling(const json& object, absl::string_view source, GenerationConfig& result) {
  double temperature = 1.0;
  RETURN_IF_ERROR(
      Read(object, "temperature", source, {0.0, Low::kIncluded, kMaxTemperature}, temperature));
  ASSIGN_OR_RETURN(const std::optional<bool> sample, FindBool(object, "do_sample", source));
  if (sample.value_or(false)) result.temperature = temperature;
  RETURN_IF_ERROR(Read(object, "top_p", source, {0.0, Low::kExcluded, 1.0}, result.top_p));
  RETURN_IF_ERROR(Read(object, "min_p", source, {0.0, Low::kIncluded, 1.0}, result.min_p));
  RETURN_IF_ERROR(Read(object, "repetition_penalty", source, {0.0, Low::kExcluded, kMaxPenalty},
                       result.repetition_penalty));
  ASSIGN_OR_RETURN(const std::optional<int64_t> top_k, FindInt(object, "top_k", source));
  if (top_k) {
    ASSIGN_OR_RETURN(result.top_k, GetIntIn(object, "top_k", source, {0, kMaxTopK}));
  }
  ASSIGN_OR_RETURN(result.max_new_tokens, FindInt(object, "max_new_tokens", source));
  if (!result.max_new_tokens) return absl::OkStatus();
  return GetIntIn(object, "max_new_tokens", source, {1, kMaxNewTokens}).status();
}

}  // namespace

absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view text,
                                                       absl::string_view source,
                                                       const ModelConfig& config) {
  const absl::StatusOr<json> object = ParseJson(text, source);
  if (!object.ok()) return absl::InvalidArgumentError(object.status().message());
  GenerationConfig result;
  RETURN_IF_ERROR(ReadSampling(*object, source, result));
  ASSIGN_OR_RETURN(result.eos_ids, FindTokenIds(*object, "eos_token_id", source, config.vocab));
  if (result.eos_ids.empty()) result.eos_ids = config.eos_ids;
  ASSIGN_OR_RETURN(result.bos_id, FindTokenId(*object, "bos_token_id", source, config.vocab));
  if (result.bos_id < 0) result.bos_id = config.bos_id;
  return result;
}

absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& dir,
                                                      const ModelConfig& config) {
  const std::string path = absl::StrCat(dir, "/generation_config.json");
  const absl::StatusOr<std::string> text = ReadFile(path, kMaxFileBytes);
  if (absl::IsNotFound(text.status())) return ParseGenerationConfig("{}", path, config);
  if (!text.ok()) return text.status();
  return ParseGenerationConfig(*text, path, config);
}

}  // namespace tessera
