// What generation_config.json says: how requests sample that do not say it themselves, and which
// ids end a text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "model/config.h"

namespace tessera {

struct GenerationConfig {
  // 0 (greedy) unless do_sample is true, as in transformers; then the file's, or 1. The others are
  // the file's either way, for requests that ask for a temperature.
  double temperature = 0.0;
  double top_p = 1.0;
  double min_p = 0.0;
  int64_t top_k = 0;  // 0: off, also when absent (transformers would take 50)
  double repetition_penalty = 1.0;
  std::optional<int64_t> max_new_tokens;
  std::vector<int64_t> eos_ids;  // this file's; config.json's when it has none
  int64_t bos_id = -1;           // likewise; -1: none
};

// Reads generation_config.json's text; `source` names it in errors. Unknown fields are ignored.
// kInvalidArgument: not a JSON object, or a field of the wrong type or outside its range (named,
// with the value): temperature 0 to 100, top_p above 0 to 1, min_p 0 to 1, top_k and token ids
// from 0 to 2^31 - 1, repetition_penalty above 0 to 100, max_new_tokens at least 1.
absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view json,
                                                       absl::string_view source,
                                                       const ModelConfig& config);

// ParseGenerationConfig of DIR/generation_config.json; that of an empty object when there is none.
absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& dir,
                                                      const ModelConfig& config);

}  // namespace tessera
