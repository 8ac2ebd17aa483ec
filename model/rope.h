// Reading the rotary embedding's part of config.json. MakeRopeTable is in model/config.h.
#pragma once

#include <cstdint>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

#include "model/config.h"

namespace tessera {

// `config` is the whole of config.json: `rope_theta` with `rope_scaling` (transformers 4) or
// `rope_parameters` (transformers 5); rope_scaling wins where both are given, as in transformers.
// original_max_position_embeddings beside them wins over one inside, as there; `max_positions`
// stands in where both are absent. kInvalidArgument: a field of the wrong type or outside its
// range. kUnimplemented: a rope type other than default, llama3 and yarn, one per layer type, or a
// partial rotation.
absl::StatusOr<RopeConfig> ParseRope(const nlohmann::json& config, int64_t max_positions,
                                     absl::string_view source);

}  // namespace tessera
