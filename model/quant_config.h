// Reading config.json's quantization_config.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

#include "common/quant_format.h"

namespace tessera {

// The format of the linear layers that `quantization` (an object) describes; `source` names it in
// errors. kInvalidArgument: a field of the wrong type or outside its range. kUnimplemented: a
// method other than gptq and awq, or an option of theirs that is not read here (named).
absl::StatusOr<QuantFormat> ParseQuantConfig(const nlohmann::json& quantization,
                                             absl::string_view source);

}  // namespace tessera
