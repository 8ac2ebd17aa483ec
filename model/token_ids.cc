#include "model/token_ids.h"

#include <algorithm>
#include <optional>
#include <string>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "model/json.h"

namespace tessera {
namespace {

constexpr size_t kMaxIds = 1024;

}  // namespace

absl::StatusOr<int64_t> FindTokenId(const nlohmann::json& object, absl::string_view field,
                                    absl::string_view source, int64_t vocab) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> id, FindInt(object, field, source));
  if (!id) return -1;
  return GetIntIn(object, field, source, {0, vocab - 1});
}

absl::StatusOr<std::vector<int64_t>> FindTokenIds(const nlohmann::json& object,
                                                  absl::string_view field, absl::string_view source,
                                                  int64_t vocab) {
  std::vector<int64_t> ids;
  const auto found = object.find(std::string(field));
  if (found == object.end() || !found->is_array()) {
    ASSIGN_OR_RETURN(const int64_t id, FindTokenId(object, field, source, vocab));
    if (id >= 0) ids.push_back(id);
    return ids;
  }
  if (found->size() > kMaxIds) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", field, " has ", found->size(), " ids, at most ", kMaxIds));
  }
  for (const nlohmann::json& value : *found) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(vocab)) {
      return absl::InvalidArgumentError(absl::StrCat(source, ": ", field, " has ",
                                                     DescribeJson(value),
                                                     ", must be ids from 0 to ", vocab - 1));
    }
    const auto id = value.get<int64_t>();
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

}  // namespace tessera
