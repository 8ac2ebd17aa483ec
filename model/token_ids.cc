#include "model/token_ids.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include <absl/strings/str_cat.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "model/json.h"

namespace tessera {
namespace {

constexpr size_t kMaxIds = 1024;

// Small models often keep the special ids of a larger vocabulary, which can never be sampled.
bool InVocabulary(int64_t id, int64_t vocab, absl::string_view field, absl::string_view source) {
  if (id < vocab) return true;
  LogWarning(source, ": ", field, " ", id, " is outside the vocabulary of ", vocab, "; ignored");
  return false;
}

}  // namespace

absl::StatusOr<int64_t> FindTokenId(const nlohmann::json& object, absl::string_view field,
                                    absl::string_view source, int64_t vocab) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> id, FindInt(object, field, source));
  if (!id) return -1;
  ASSIGN_OR_RETURN(const int64_t found, GetIntIn(object, field, source, {0, INT32_MAX}));
  return InVocabulary(found, vocab, field, source) ? found : -1;
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
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT32_MAX) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": ", field, " has ", DescribeJson(value), ", must be ids"));
    }
    const auto id = value.get<int64_t>();
    if (!InVocabulary(id, vocab, field, source)) continue;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

}  // namespace tessera
