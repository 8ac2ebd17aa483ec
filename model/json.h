// Strict reading of JSON that others wrote: model configs, tokenizer files, requests.
//
// Getters take the object, the field's name and `source`, the words that name the object in
// messages (a file name, or "config.json: quantization_config"). GetX wants the field to be there;
// FindX returns nullopt (or nullptr) when it is absent or null. Both are kInvalidArgument, naming
// source, field and the value seen, when `object` is no object or the value has another type.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

namespace tessera {

// Parses one JSON value (RFC 8259) that spans `text`, with no comments, NaN or trailing text.
// Integers beyond 64 bits become doubles. The depth is found by a scan before anything is built.
// kDataLoss, naming `source`: not JSON, invalid UTF-8 or a lone surrogate in a string, a number
// beyond a double, an object with the same key twice, or more than `max_depth` levels of nesting.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view source,
                                         int max_depth = 64);

// What `value` is, for messages: its JSON text cut to a few dozen bytes, or "an array of 3".
std::string DescribeJson(const nlohmann::json& value);

absl::StatusOr<bool> GetBool(const nlohmann::json& object, absl::string_view field,
                             absl::string_view source);
absl::StatusOr<std::optional<bool>> FindBool(const nlohmann::json& object, absl::string_view field,
                                             absl::string_view source);

// A number written without fraction or exponent, in int64 range.
absl::StatusOr<int64_t> GetInt(const nlohmann::json& object, absl::string_view field,
                               absl::string_view source);
absl::StatusOr<std::optional<int64_t>> FindInt(const nlohmann::json& object,
                                               absl::string_view field, absl::string_view source);
// As GetInt; also kInvalidArgument outside [range.min, range.max].
struct IntRange {
  int64_t min;
  int64_t max;
};
absl::StatusOr<int64_t> GetIntIn(const nlohmann::json& object, absl::string_view field,
                                 absl::string_view source, IntRange range);

// Any number; always finite.
absl::StatusOr<double> GetDouble(const nlohmann::json& object, absl::string_view field,
                                 absl::string_view source);
absl::StatusOr<std::optional<double>> FindDouble(const nlohmann::json& object,
                                                 absl::string_view field, absl::string_view source);

absl::StatusOr<std::string> GetString(const nlohmann::json& object, absl::string_view field,
                                      absl::string_view source);
absl::StatusOr<std::optional<std::string>> FindString(const nlohmann::json& object,
                                                      absl::string_view field,
                                                      absl::string_view source);

// The pointers borrow from `object`.
absl::StatusOr<const nlohmann::json*> GetObject(const nlohmann::json& object,
                                                absl::string_view field, absl::string_view source);
absl::StatusOr<const nlohmann::json*> FindObject(const nlohmann::json& object,
                                                 absl::string_view field, absl::string_view source);
absl::StatusOr<const nlohmann::json*> GetArray(const nlohmann::json& object,
                                               absl::string_view field, absl::string_view source);
absl::StatusOr<const nlohmann::json*> FindArray(const nlohmann::json& object,
                                                absl::string_view field, absl::string_view source);

}  // namespace tessera
