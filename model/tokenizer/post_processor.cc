#include "model/tokenizer/post_processor.h"

#include <string>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/component_json.h"

namespace tessera {
namespace {

using nlohmann::json;

// Ids of the special token that a template calls `name`.
absl::StatusOr<std::vector<int32_t>> SpecialTokenIds(const json& processor, const std::string& name,
                                                     int64_t id_end, absl::string_view source) {
  ASSIGN_OR_RETURN(const json* tokens, GetObject(processor, "special_tokens", source));
  const std::string tokens_source = absl::StrCat(source, ".special_tokens");
  ASSIGN_OR_RETURN(const json* token, FindObject(*tokens, name, tokens_source));
  if (token == nullptr) {
    return absl::DataLossError(
        absl::StrCat(tokens_source, ": no ", DescribeJson(name), ", which the template names"));
  }
  ASSIGN_OR_RETURN(const json* ids, GetArray(*token, "ids", tokens_source));
  std::vector<int32_t> result;
  for (const json& id : *ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(id_end)) {
      return absl::DataLossError(absl::StrCat(tokens_source, ": id of ", DescribeJson(name), " is ",
                                              DescribeJson(id), ", must be below ", id_end));
    }
    result.push_back(id.get<int32_t>());
  }
  return result;
}

absl::StatusOr<PostProcessor> ParseTemplate(const json& value, int64_t id_end,
                                            absl::string_view source) {
  PostProcessor result;
  bool text_seen = false;
  RETURN_IF_ERROR(ForEachComponent(
      value, "single", source, [&](const json& piece, absl::string_view piece_source) {
        ASSIGN_OR_RETURN(const json* special, FindObject(piece, "SpecialToken", piece_source));
        if (special != nullptr) {
          ASSIGN_OR_RETURN(const std::string name, GetString(*special, "id", piece_source));
          ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                           SpecialTokenIds(value, name, id_end, source));
          auto& side = text_seen ? result.after : result.before;
          side.insert(side.end(), ids.begin(), ids.end());
          return absl::OkStatus();
        }
        ASSIGN_OR_RETURN(const json* sequence, GetObject(piece, "Sequence", piece_source));
        ASSIGN_OR_RETURN(const std::string id, GetString(*sequence, "id", piece_source));
        if (id != "A" || text_seen) {
          return absl::UnimplementedError(absl::StrCat(
              piece_source, ": sequence ", DescribeJson(id), ", a template must hold A once"));
        }
        text_seen = true;
        return absl::OkStatus();
      }));
  if (!text_seen) return absl::DataLossError(absl::StrCat(source, ".single: holds no sequence A"));
  return result;
}

}  // namespace

absl::StatusOr<PostProcessor> PostProcessor::Parse(const json& value, int64_t id_end,
                                                   absl::string_view source) {
  if (value.is_null()) return PostProcessor();
  ASSIGN_OR_RETURN(const std::string type, GetString(value, "type", source));
  if (type == "ByteLevel") return PostProcessor();
  if (type == "TemplateProcessing") return ParseTemplate(value, id_end, source);
  if (type != "Sequence") {
    return absl::UnimplementedError(
        absl::StrCat(source, ": type ", DescribeJson(type),
                     ", known are ByteLevel, Sequence, TemplateProcessing"));
  }
  PostProcessor all;
  RETURN_IF_ERROR(ForEachComponent(
      value, "processors", source, [&](const json& part, absl::string_view part_source) {
        ASSIGN_OR_RETURN(const PostProcessor outer, Parse(part, id_end, part_source));
        all.before.insert(all.before.begin(), outer.before.begin(), outer.before.end());
        all.after.insert(all.after.end(), outer.after.begin(), outer.after.end());
        return absl::OkStatus();
      }));
  return all;
}

}  // namespace tessera
