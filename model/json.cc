#include "model/json.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr size_t kShownBytes = 60;

// Levels of nesting in `text`, counting brackets outside strings; exact for valid JSON.
int64_t NestingDepth(absl::string_view text) {
  int64_t depth = 0;
  int64_t deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

// Builds the value from the parser's events and stops at the first repeated key.
class StrictBuilder : public json::json_sax_t {
 public:
  bool null() override { return Add(nullptr) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t& /*text*/) override {
    return Add(value) != nullptr;
  }
  bool string(string_t& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(binary_t& /*value*/) override { return false; }
  bool start_object(std::size_t /*elements*/) override { return Open(json::object()); }
  bool start_array(std::size_t /*elements*/) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& value) override {
    const auto [slot, added] = open_.back()->get_ref<json::object_t&>().try_emplace(value, nullptr);
    if (!added)
      problem_ = absl::StrCat("key ", DescribeJson(value), " appears twice in one object");
    slot_ = &slot->second;
    return added;
  }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    problem_ = absl::StrCat("byte ", position, " is where it stops being JSON in UTF-8");
    return false;
  }

  const std::string& problem() const { return problem_; }
  json Take() { return std::move(root_); }

 private:
  // Puts the value at the root, at the end of the open array, or in the open object's last key.
  json* Add(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      auto& array = open_.back()->get_ref<json::array_t&>();
      array.push_back(std::move(value));
      return &array.back();
    }
    *slot_ = std::move(value);
    return slot_;
  }
  bool Open(json value) {
    open_.push_back(Add(std::move(value)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  json root_;
  std::vector<json*>
      open_;  // containers not closed yet; a parent is not touched while a child is open
  json* slot_ = nullptr;  // where the value of the last key goes
  std::string problem_;
};

absl::Status WrongType(const json& value, absl::string_view field, absl::string_view source,
                       absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": ", field, " is ", DescribeJson(value), ", must be ", wanted));
}

// The field's value, or null when it is absent.
absl::StatusOr<const json*> Lookup(const json& object, absl::string_view field,
                                   absl::string_view source) {
  if (!object.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": has field ", field,
                                                   " to be read from ", DescribeJson(object),
                                                   ", must be an object"));
  }
  const auto found = object.find(std::string(field));
  if (found == object.end() || found->is_null()) return nullptr;
  return &*found;
}

absl::Status Missing(absl::string_view field, absl::string_view source, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": ", field, " is absent or null, must be ", wanted));
}

// FindX in terms of a conversion that returns false when the type is wrong.
template <typename T, typename Convert>
absl::StatusOr<std::optional<T>> Find(const json& object, absl::string_view field,
                                      absl::string_view source, absl::string_view wanted,
                                      Convert convert) {
  ASSIGN_OR_RETURN(const json* value, Lookup(object, field, source));
  if (value == nullptr) return std::optional<T>();
  std::optional<T> result = convert(*value);
  if (!result) return WrongType(*value, field, source, wanted);
  return result;
}

template <typename T>
absl::StatusOr<T> Require(absl::StatusOr<std::optional<T>> found, absl::string_view field,
                          absl::string_view source, absl::string_view wanted) {
  if (!found.ok()) return std::move(found).status();
  if (!found->has_value()) return Missing(field, source, wanted);
  return **std::move(found);
}

absl::StatusOr<const json*> FindContainer(const json& object, absl::string_view field,
                                          absl::string_view source, json::value_t type) {
  ASSIGN_OR_RETURN(const json* value, Lookup(object, field, source));
  if (value != nullptr && value->type() != type) {
    return WrongType(*value, field, source,
                     type == json::value_t::object ? "an object" : "an array");
  }
  return value;
}

}  // namespace

absl::StatusOr<json> ParseJson(absl::string_view text, absl::string_view source, int max_depth) {
  const int64_t depth = NestingDepth(text);
  if (depth > max_depth) {
    return absl::DataLossError(
        absl::StrCat(source, ": JSON nested ", depth, " levels deep, at most ", max_depth));
  }
  StrictBuilder builder;
  if (!json::sax_parse(text.begin(), text.end(), &builder)) {
    return absl::DataLossError(absl::StrCat(source, ": ", builder.problem()));
  }
  return builder.Take();
}

std::string DescribeJson(const json& value) {
  if (value.is_array()) return absl::StrCat("an array of ", value.size());
  if (value.is_object()) return absl::StrCat("an object of ", value.size());
  std::string text;
  if (value.is_string()) {
    const auto& full = value.get_ref<const std::string&>();
    // Replaces a character cut in half; dump() would otherwise throw.
    text = json(full.substr(0, kShownBytes)).dump(-1, ' ', true, json::error_handler_t::ignore);
    if (full.size() > kShownBytes) absl::StrAppend(&text, "... (", full.size(), " bytes)");
    return text;
  }
  return value.dump();
}

absl::StatusOr<std::optional<bool>> FindBool(const json& object, absl::string_view field,
                                             absl::string_view source) {
  return Find<bool>(object, field, source, "true or false", [](const json& v) {
    return v.is_boolean() ? std::optional(v.get<bool>()) : std::nullopt;
  });
}

absl::StatusOr<bool> GetBool(const json& object, absl::string_view field,
                             absl::string_view source) {
  return Require(FindBool(object, field, source), field, source, "true or false");
}

absl::StatusOr<std::optional<int64_t>> FindInt(const json& object, absl::string_view field,
                                               absl::string_view source) {
  return Find<int64_t>(object, field, source, "an integer",
                       [](const json& v) -> std::optional<int64_t> {
                         if (!v.is_number_integer()) return std::nullopt;
                         constexpr auto kMax = uint64_t{std::numeric_limits<int64_t>::max()};
                         if (v.is_number_unsigned() && v.get<uint64_t>() > kMax)
                           return std::nullopt;
                         return v.get<int64_t>();
                       });
}

absl::StatusOr<int64_t> GetInt(const json& object, absl::string_view field,
                               absl::string_view source) {
  return Require(FindInt(object, field, source), field, source, "an integer");
}

absl::StatusOr<int64_t> GetIntIn(const json& object, absl::string_view field,
                                 absl::string_view source, IntRange range) {
  ASSIGN_OR_RETURN(const int64_t value, GetInt(object, field, source));
  if (value < range.min || value > range.max) {
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": ", field, " is ", value, ", must be from ", range.min, " to ", range.max));
  }
  return value;
}

absl::StatusOr<std::optional<double>> FindDouble(const json& object, absl::string_view field,
                                                 absl::string_view source) {
  return Find<double>(object, field, source, "a number", [](const json& v) {
    return v.is_number() ? std::optional(v.get<double>()) : std::nullopt;
  });
}

absl::StatusOr<double> GetDouble(const json& object, absl::string_view field,
                                 absl::string_view source) {
  return Require(FindDouble(object, field, source), field, source, "a number");
}

absl::StatusOr<std::optional<std::string>> FindString(const json& object, absl::string_view field,
                                                      absl::string_view source) {
  return Find<std::string>(object, field, source, "a string", [](const json& v) {
    return v.is_string() ? std::optional(v.get<std::string>()) : std::nullopt;
  });
}

absl::StatusOr<std::string> GetString(const json& object, absl::string_view field,
                                      absl::string_view source) {
  return Require(FindString(object, field, source), field, source, "a string");
}

absl::StatusOr<const json*> FindObject(const json& object, absl::string_view field,
                                       absl::string_view source) {
  return FindContainer(object, field, source, json::value_t::object);
}

absl::StatusOr<const json*> GetObject(const json& object, absl::string_view field,
                                      absl::string_view source) {
  ASSIGN_OR_RETURN(const json* value, FindObject(object, field, source));
  if (value == nullptr) return Missing(field, source, "an object");
  return value;
}

absl::StatusOr<const json*> FindArray(const json& object, absl::string_view field,
                                      absl::string_view source) {
  return FindContainer(object, field, source, json::value_t::array);
}

absl::StatusOr<const json*> GetArray(const json& object, absl::string_view field,
                                     absl::string_view source) {
  ASSIGN_OR_RETURN(const json* value, FindArray(object, field, source));
  if (value == nullptr) return Missing(field, source, "an array");
  return value;
}

}  // namespace tessera
