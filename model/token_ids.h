// Reading token ids from the JSON of config.json and generation_config.json.
#pragma once

#include <cstdint>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

namespace tessera {

// The id in `field`, or -1 when it is absent, null, or (with a warning) outside the vocabulary.
// kInvalidArgument, naming source, field and value: not an integer from 0 to 2^31 - 1.
absl::StatusOr<int64_t> FindTokenId(const nlohmann::json& object, absl::string_view field,
                                    absl::string_view source, int64_t vocab);

// The ids in `field`, which is one id, an array of at most 1024, absent or null; those of the
// vocabulary, without repetitions, in their order. kInvalidArgument as FindTokenId.
absl::StatusOr<std::vector<int64_t>> FindTokenIds(const nlohmann::json& object,
                                                  absl::string_view field, absl::string_view source,
                                                  int64_t vocab);

}  // namespace tessera
