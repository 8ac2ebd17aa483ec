// BpeModel::Parse and what it needs: the reading of `vocab` and `merges`.
#include <utility>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "common/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/utf8.h"

namespace tessera {
namespace {

using nlohmann::json;

// kUnimplemented when a field that changes the algorithm is in use.
absl::Status RefuseUnknownOptions(const json& model, absl::string_view source) {
  ASSIGN_OR_RETURN(const auto dropout, FindDouble(model, "dropout", source));
  if (dropout.value_or(0) != 0) {
    return absl::UnimplementedError(absl::StrCat(source, ": dropout is ", *dropout, ", must be 0"));
  }
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const auto affix, FindString(model, field, source));
    if (!affix.value_or("").empty()) {
      return absl::UnimplementedError(
          absl::StrCat(source, ": ", field, " is ", DescribeJson(*affix), ", must be null"));
    }
  }
  return absl::OkStatus();
}

// The two parts of a merge, written "left right" or ["left", "right"]; nullopt for anything else.
std::optional<std::pair<absl::string_view, absl::string_view>> SplitMerge(const json& merge) {
  if (merge.is_string()) {
    const absl::string_view text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == absl::string_view::npos || absl::StrContains(text.substr(space + 1), ' ')) {
      return std::nullopt;
    }
    return std::pair(text.substr(0, space), text.substr(space + 1));
  }
  if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) {
    return std::nullopt;
  }
  return std::pair(absl::string_view(merge[0].get_ref<const std::string&>()),
                   absl::string_view(merge[1].get_ref<const std::string&>()));
}

}  // namespace

absl::StatusOr<BpeModel> BpeModel::Parse(const json& value, absl::string_view source) {
  ASSIGN_OR_RETURN(const auto type, FindString(value, "type", source));
  if (type.value_or("BPE") != "BPE") {
    return absl::UnimplementedError(
        absl::StrCat(source, ": type ", DescribeJson(*type), ", only BPE is known"));
  }
  RETURN_IF_ERROR(RefuseUnknownOptions(value, source));
  BpeModel model;
  ASSIGN_OR_RETURN(const auto fuse_unk, FindBool(value, "fuse_unk", source));
  ASSIGN_OR_RETURN(const auto byte_fallback, FindBool(value, "byte_fallback", source));
  ASSIGN_OR_RETURN(const auto ignore_merges, FindBool(value, "ignore_merges", source));
  model.fuse_unk_ = fuse_unk.value_or(false);
  model.byte_fallback_ = byte_fallback.value_or(false);
  model.ignore_merges_ = ignore_merges.value_or(false);
  ASSIGN_OR_RETURN(const json* vocabulary, GetObject(value, "vocab", source));
  RETURN_IF_ERROR(model.ReadVocabulary(*vocabulary, absl::StrCat(source, ".vocab")));
  ASSIGN_OR_RETURN(const json* merges, GetArray(value, "merges", source));
  RETURN_IF_ERROR(model.ReadMerges(*merges, absl::StrCat(source, ".merges")));
  ASSIGN_OR_RETURN(const auto unk_token, FindString(value, "unk_token", source));
  if (unk_token) {
    const auto unk_id = model.FindId(*unk_token);
    if (!unk_id) {
      return absl::DataLossError(absl::StrCat(source, ": unk_token ", DescribeJson(*unk_token),
                                              " is not in the vocabulary"));
    }
    model.unk_id_ = *unk_id;
  }
  model.CacheIds();
  return model;
}

absl::Status BpeModel::ReadVocabulary(const json& vocabulary, absl::string_view source) {
  ids_.reserve(vocabulary.size());
  for (const auto& [token, id] : vocabulary.items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > uint64_t{kMaxTokenId}) {
      return absl::DataLossError(absl::StrCat(source, ": the id of ", DescribeJson(token), " is ",
                                              DescribeJson(id), ", must be from 0 to ",
                                              kMaxTokenId));
    }
    const auto index = id.get<size_t>();
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    if (tokens_[index]) {
      return absl::DataLossError(absl::StrCat(source, ": ", DescribeJson(*tokens_[index]), " and ",
                                              DescribeJson(token), " both have id ", index));
    }
    tokens_[index] = token;
    ids_.emplace(token, static_cast<int32_t>(index));
  }
  return absl::OkStatus();
}

absl::Status BpeModel::ReadMerges(const json& merges, absl::string_view source) {
  merges_.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    // A line of the old merges.txt that was carried over.
    if (merges[i].is_string() &&
        absl::StartsWith(merges[i].get_ref<const std::string&>(), "#version")) {
      continue;
    }
    const auto parts = SplitMerge(merges[i]);
    if (!parts) {
      return absl::DataLossError(
          absl::StrCat(source, "[", i, "] is ", DescribeJson(merges[i]), ", must be two tokens"));
    }
    RETURN_IF_ERROR(AddMerge(parts->first, parts->second, i, source));
  }
  return absl::OkStatus();
}

absl::Status BpeModel::AddMerge(absl::string_view left, absl::string_view right, size_t index,
                                absl::string_view source) {
  const std::string merged = absl::StrCat(left, right);
  int32_t ids[3] = {};
  const absl::string_view tokens[3] = {left, right, merged};
  for (int i = 0; i < 3; ++i) {
    const auto id = FindId(tokens[i]);
    if (!id) {
      return absl::DataLossError(absl::StrCat(source, "[", index,
                                              "]: ", DescribeJson(std::string(tokens[i])),
                                              " is not in the vocabulary"));
    }
    ids[i] = *id;
  }
  // Of a pair given twice the last place counts.
  merges_[PairKey(ids[0], ids[1])] = {static_cast<int32_t>(index), ids[2]};
  return absl::OkStatus();
}

void BpeModel::CacheIds() {
  for (char32_t c = 0; c < kDirectCharacters; ++c) {
    std::string character;
    AppendUtf8(c, &character);
    direct_[c] = FindId(character).value_or(kNone);
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = FindId(absl::StrFormat("<0x%02X>", byte)).value_or(kNone);
  }
}

}  // namespace tessera
