#include "client/flags.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/str_split.h>

#include "client/text_file.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace tessera {
namespace {

absl::Status Refused(const FlagSpec& spec, absl::string_view text, absl::string_view want) {
  return absl::InvalidArgumentError(
      absl::StrCat(Spelled(spec), " \"", text.substr(0, 80), "\": want ", want));
}

std::string IntRange(const FlagSpec& spec, absl::string_view noun) {
  if (spec.min == INT64_MIN && spec.max == INT64_MAX) return std::string(noun);
  if (spec.max == INT64_MAX) return absl::StrCat(noun, " of at least ", spec.min);
  return absl::StrCat(noun, " in ", spec.min, "..", spec.max);
}

std::string FloatRange(const FlagSpec& spec) {
  const std::string low = absl::StrFormat("%g", spec.low);
  if (spec.low == -FLT_MAX) return "a finite number";
  if (spec.high == FLT_MAX)
    return absl::StrCat("a finite number ", spec.low_open ? "above " : "of at least ", low);
  return absl::StrFormat("a number in %c%s, %g]", spec.low_open ? '(' : '[', low, spec.high);
}

std::string RangeOf(const FlagSpec& spec) {
  switch (spec.kind) {
    case FlagKind::kInt:
      return IntRange(spec, "an integer");
    case FlagKind::kBytes:
      return IntRange(spec, "bytes, as in 8589934592 or 8G,");
    case FlagKind::kUint:
      return "an integer in 0..18446744073709551615";
    case FlagKind::kFloat:
      return FloatRange(spec);
    case FlagKind::kString:
      return absl::StrCat("one of ", absl::StrJoin(absl::StrSplit(spec.choices, '|'), ", "));
    case FlagKind::kText:
      return "UTF-8 text";
    case FlagKind::kIntList:
      return "32-bit integers separated by commas";
    case FlagKind::kSwitch:
      return "no value";
  }
  return "";
}

// A number and a suffix that stands for a power of 1024; false: neither, or beyond 63 bits.
bool ParseByteCount(absl::string_view text, int64_t* bytes) {
  int shift = 0;
  if (absl::EndsWithIgnoreCase(text, "iB")) text.remove_suffix(2);
  if (!text.empty()) {
    const auto at = absl::string_view("KMGT").find(
        absl::ascii_toupper(static_cast<unsigned char>(text.back())));
    if (at != absl::string_view::npos) {
      shift = 10 * (static_cast<int>(at) + 1);
      text.remove_suffix(1);
    }
  }
  int64_t number = 0;
  if (!absl::SimpleAtoi(text, &number)) return false;
  return !__builtin_mul_overflow(number, int64_t{1} << shift, bytes);
}

bool ParseIntList(absl::string_view text, std::vector<int32_t>* list) {
  if (absl::StripAsciiWhitespace(text).empty()) return true;
  for (const absl::string_view piece : absl::StrSplit(text, ',')) {
    int32_t value = 0;
    if (!absl::SimpleAtoi(piece, &value)) return false;
    list->push_back(value);
  }
  return true;
}

bool IsFlag(absl::string_view arg) { return arg.size() > 1 && arg[0] == '-'; }

}  // namespace

absl::StatusOr<Flags::Value> Flags::Convert(const FlagSpec& spec, absl::string_view text) {
  const absl::Status refused = Refused(spec, text, RangeOf(spec));
  switch (spec.kind) {
    case FlagKind::kSwitch:
      return refused;
    case FlagKind::kString: {
      const std::vector<absl::string_view> allowed = absl::StrSplit(spec.choices, '|');
      const bool any = spec.choices.empty();
      if (!any && std::find(allowed.begin(), allowed.end(), text) == allowed.end()) return refused;
      return Value(std::string(text));
    }
    case FlagKind::kText:
      RETURN_IF_ERROR(CheckUtf8(Spelled(spec), text));
      return Value(std::string(text));
    case FlagKind::kInt:
    case FlagKind::kBytes: {
      int64_t value = 0;
      const bool ok = spec.kind == FlagKind::kInt ? absl::SimpleAtoi(text, &value)
                                                  : ParseByteCount(text, &value);
      if (!ok || value < spec.min || value > spec.max) return refused;
      return Value(value);
    }
    case FlagKind::kUint: {
      uint64_t value = 0;
      if (!absl::SimpleAtoi(text, &value)) return refused;
      return Value(value);
    }
    case FlagKind::kFloat: {
      double value = 0;
      if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) return refused;
      const bool low_ok = spec.low_open ? value > spec.low : value >= spec.low;
      if (!low_ok || value > spec.high || std::abs(value) > FLT_MAX) return refused;
      const auto narrow = static_cast<float>(value);
      // A value above an open bound may still round onto it: 1e-60 becomes 0.
      if (spec.low_open && !(static_cast<double>(narrow) > spec.low)) return refused;
      return Value(narrow);
    }
    case FlagKind::kIntList: {
      std::vector<int32_t> list;
      if (!ParseIntList(text, &list)) return refused;
      return Value(std::move(list));
    }
  }
  return refused;
}

absl::StatusOr<Flags> Flags::Parse(absl::Span<const FlagSpec> table,
                                   absl::Span<const std::string> args) {
  Flags flags;
  flags.table_ = table;
  flags.values_.resize(table.size());
  std::vector<std::optional<std::string>> texts(table.size());
  for (size_t i = 0; i < args.size(); ++i) {
    const absl::string_view arg = args[i];
    if (arg == "--") {
      flags.positional_.insert(flags.positional_.end(), args.begin() + static_cast<int64_t>(i) + 1,
                               args.end());
      break;
    }
    if (!IsFlag(arg)) {
      flags.positional_.push_back(args[i]);
      continue;
    }
    const size_t equals = arg.find('=');
    const absl::string_view spelled = arg.substr(0, equals);
    size_t row = 0;
    while (row < table.size() && Spelled(table[row]) != spelled) ++row;
    if (row == table.size())
      return absl::InvalidArgumentError(absl::StrCat(spelled, ": unknown flag"));
    const bool inline_value = equals != absl::string_view::npos;
    if (table[row].kind == FlagKind::kSwitch) {
      if (inline_value) return Refused(table[row], arg.substr(equals + 1), "no value");
      flags.values_[row] = true;
    } else if (inline_value) {
      texts[row] = std::string(arg.substr(equals + 1));
    } else {
      if (i + 1 == args.size())
        return absl::InvalidArgumentError(absl::StrCat(spelled, ": its value is missing"));
      texts[row] = args[++i];
    }
  }
  for (size_t row = 0; row < table.size(); ++row) {
    if (!texts[row]) continue;
    ASSIGN_OR_RETURN(flags.values_[row], Convert(table[row], *texts[row]));
  }
  return flags;
}

size_t Flags::IndexOf(absl::string_view name) const {
  for (size_t i = 0; i < table_.size(); ++i)
    if (table_[i].name == name) return i;
  TESSERA_CHECK(false, "no flag ", name);
  return 0;
}

template <typename T>
std::optional<T> Flags::Get(absl::string_view name) const {
  const Value& value = values_[IndexOf(name)];
  if (std::holds_alternative<std::monostate>(value)) return std::nullopt;
  TESSERA_CHECK(std::holds_alternative<T>(value), "flag ", name, " asked as another kind");
  return std::get<T>(value);
}

bool Flags::Given(absl::string_view name) const {
  return !std::holds_alternative<std::monostate>(values_[IndexOf(name)]);
}
bool Flags::Switch(absl::string_view name) const { return Get<bool>(name).value_or(false); }
std::optional<std::string> Flags::String(absl::string_view name) const {
  return Get<std::string>(name);
}
std::optional<int64_t> Flags::Int(absl::string_view name) const { return Get<int64_t>(name); }
std::optional<uint64_t> Flags::Uint(absl::string_view name) const { return Get<uint64_t>(name); }
std::optional<float> Flags::Float(absl::string_view name) const { return Get<float>(name); }
std::optional<std::vector<int32_t>> Flags::IntList(absl::string_view name) const {
  return Get<std::vector<int32_t>>(name);
}

std::string Spelled(const FlagSpec& flag) {
  return absl::StrCat(flag.name.size() == 1 ? "-" : "--", flag.name);
}

std::string DescribeFlags(absl::Span<const FlagSpec> table) {
  std::string text;
  for (const FlagSpec& flag : table) {
    const std::string head = absl::StrCat(Spelled(flag), flag.value.empty() ? "" : " ", flag.value);
    absl::StrAppend(&text, absl::StrFormat("  %-28s %s", head, flag.help));
    if (!flag.choices.empty())
      absl::StrAppend(&text, " (", absl::StrReplaceAll(flag.choices, {{"|", ", "}}), ")");
    if (!flag.fallback.empty()) absl::StrAppend(&text, " [", flag.fallback, "]");
    text += '\n';
  }
  return text;
}

}  // namespace tessera
