// Command-line flags as a table: each command lists its flags, and parsing, range checks and --help
// follow from the list.
#pragma once

#include <cfloat>
#include <climits>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

namespace tessera {

enum class FlagKind : uint8_t {
  kSwitch,   // takes no value
  kString,   // any bytes, or one of `choices`
  kText,     // UTF-8, as requests carry it
  kInt,      // in [min, max]
  kUint,     // in [0, 2^64)
  kFloat,    // finite, in [low, high], or (low, high] with `low_open`; fits an fp32
  kBytes,    // bytes, or a number followed by K, M, G or T (powers of 1024); in [min, max]
  kIntList,  // 32-bit integers separated by commas; may be empty
};

struct FlagSpec {
  absl::string_view name;  // without dashes; one letter means a single dash
  FlagKind kind = FlagKind::kString;
  absl::string_view value;     // the value's name in --help, which says its unit: "TOKENS"
  absl::string_view help;      // one sentence
  absl::string_view fallback;  // what holds without the flag, for --help
  int64_t min = INT64_MIN, max = INT64_MAX;
  double low = -FLT_MAX, high = FLT_MAX;
  bool low_open = false;
  absl::string_view choices = "";  // kString: the texts allowed, separated by '|'
};

// What was given. Getters take the flag's name, which must be in the table with that kind; they
// return nullopt when it was not given.
class Flags {
 public:
  // Reads `--name value` and `--name=value`; after `--`, or without dashes, an argument is
  // positional. Of a repeated flag the last value counts and is the only one looked at.
  // `table` must outlive the result.
  // kInvalidArgument: an unknown flag, a value missing or refused; names the flag and the value.
  static absl::StatusOr<Flags> Parse(absl::Span<const FlagSpec> table,
                                     absl::Span<const std::string> args);

  bool Given(absl::string_view name) const;
  bool Switch(absl::string_view name) const;
  std::optional<std::string> String(absl::string_view name) const;
  std::optional<int64_t> Int(absl::string_view name) const;  // kInt and kBytes
  std::optional<uint64_t> Uint(absl::string_view name) const;
  std::optional<float> Float(absl::string_view name) const;
  std::optional<std::vector<int32_t>> IntList(absl::string_view name) const;
  const std::vector<std::string>& positional() const { return positional_; }

 private:
  using Value = std::variant<std::monostate, bool, std::string, int64_t, uint64_t, float,
                             std::vector<int32_t>>;
  static absl::StatusOr<Value> Convert(const FlagSpec& spec, absl::string_view text);
  template <typename T>
  std::optional<T> Get(absl::string_view name) const;
  size_t IndexOf(absl::string_view name) const;

  absl::Span<const FlagSpec> table_;
  std::vector<Value> values_;  // one per row of the table
  std::vector<std::string> positional_;
};

// "--max-tokens" or "-n".
std::string Spelled(const FlagSpec& flag);

// The table as the lines of --help.
std::string DescribeFlags(absl::Span<const FlagSpec> table);

}  // namespace tessera
