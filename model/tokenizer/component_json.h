// Pieces of JSON that several stages of tokenizer.json share.
#pragma once

#include <string>

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

namespace tessera {

// The text of `"pattern": {"String": text}`. kUnimplemented: the pattern is a regular expression or
// empty. kInvalidArgument: it is neither.
absl::StatusOr<std::string> GetStringPattern(const nlohmann::json& component,
                                             absl::string_view source);

// Calls `visit` with each element of the array `field` and the words that name it, until one
// returns an error. kInvalidArgument: no such array.
absl::Status ForEachComponent(
    const nlohmann::json& component, absl::string_view field, absl::string_view source,
    absl::FunctionRef<absl::Status(const nlohmann::json&, absl::string_view)> visit);

// The one character of `field`, as UTF-8. kInvalidArgument: another number of characters.
absl::StatusOr<std::string> GetCharacter(const nlohmann::json& component, absl::string_view field,
                                         absl::string_view source);

}  // namespace tessera
