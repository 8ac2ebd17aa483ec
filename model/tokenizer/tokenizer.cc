#include "model/tokenizer/tokenizer.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "model/file.h"
#include "model/json.h"
#include "model/tokenizer/utf8.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr int64_t kMaxFileBytes = int64_t{64} << 20;
constexpr size_t kMaxTextBytes = size_t{256} << 20;

// The value of an optional field of any type.
const json& FieldOrNull(const json& object, const char* field) {
  static const json null;
  const auto found = object.find(field);
  return found == object.end() ? null : *found;
}

// The spelling of a token that tokenizer_config.json gives as a string or as {"content": ...}.
absl::StatusOr<std::optional<std::string>> FindTokenText(const json& config, const char* field,
                                                         absl::string_view source) {
  if (FieldOrNull(config, field).is_object()) {
    ASSIGN_OR_RETURN(const json* token, GetObject(config, field, source));
    return FindString(*token, "content", absl::StrCat(source, ": ", field));
  }
  return FindString(config, field, source);
}

}  // namespace

// What one call of Encode works on.
struct Tokenizer::Encoding {
  std::vector<std::pair<size_t, size_t>> plain_ranges;  // bytes where special tokens are plain text
  BpeModel::Workspace workspace;
  std::vector<int32_t> ids;

  bool OverlapsPlain(size_t begin, size_t end) const {
    const auto after = std::lower_bound(plain_ranges.begin(), plain_ranges.end(), begin,
                                        [](const auto& r, size_t b) { return r.second <= b; });
    return after != plain_ranges.end() && after->first < end;
  }
};

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& dir) {
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer());
  RETURN_IF_ERROR(tokenizer->ReadTokenizer(absl::StrCat(dir, "/tokenizer.json")));
  RETURN_IF_ERROR(tokenizer->ReadConfig(absl::StrCat(dir, "/tokenizer_config.json")));
  return tokenizer;
}

absl::Status Tokenizer::ReadTokenizer(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  ASSIGN_OR_RETURN(const json file, ParseJson(text, path));
  ASSIGN_OR_RETURN(const auto version, FindString(file, "version", path));
  if (version.value_or("1.0") != "1.0") {
    return absl::UnimplementedError(
        absl::StrCat(path, ": version is ", DescribeJson(*version), ", must be 1.0"));
  }
  const auto source = [&path](absl::string_view field) { return absl::StrCat(path, ": ", field); };
  ASSIGN_OR_RETURN(const json* model, GetObject(file, "model", path));
  ASSIGN_OR_RETURN(model_, BpeModel::Parse(*model, source("model")));
  ASSIGN_OR_RETURN(normalizer_,
                   Normalizer::Parse(FieldOrNull(file, "normalizer"), source("normalizer")));
  ASSIGN_OR_RETURN(pre_tokenizer_, PreTokenizer::Parse(FieldOrNull(file, "pre_tokenizer"),
                                                       source("pre_tokenizer")));
  if (pre_tokenizer_.DependsOnStart() && normalizer_.MayCutStart()) {
    return absl::UnimplementedError(absl::StrCat(
        path, ": normalizer Replace with pre_tokenizer Metaspace and prepend_scheme first"));
  }
  ASSIGN_OR_RETURN(added_, AddedTokens::Parse(FieldOrNull(file, "added_tokens"), model_,
                                              normalizer_, source("added_tokens")));
  ASSIGN_OR_RETURN(post_processor_,
                   PostProcessor::Parse(FieldOrNull(file, "post_processor"), vocabulary_size(),
                                        source("post_processor")));
  ASSIGN_OR_RETURN(decoder_, Decoder::Parse(FieldOrNull(file, "decoder"), source("decoder")));
  return absl::OkStatus();
}

absl::Status Tokenizer::ReadConfig(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path, kMaxFileBytes);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  if (!text.ok()) return text.status();
  ASSIGN_OR_RETURN(const json config, ParseJson(*text, path));
  ASSIGN_OR_RETURN(const auto bos, FindTokenText(config, "bos_token", path));
  ASSIGN_OR_RETURN(const auto eos, FindTokenText(config, "eos_token", path));
  ASSIGN_OR_RETURN(const auto pad, FindTokenText(config, "pad_token", path));
  if (bos) bos_id_ = IdOf(*bos);
  if (eos) eos_id_ = IdOf(*eos);
  if (pad) pad_id_ = IdOf(*pad);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view text,
                                                       EncodeOptions options) const {
  const TextSegment segment = {text, options.special_text};
  return EncodeSegments({&segment, 1}, options.affixes);
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeSegments(
    absl::Span<const TextSegment> segments, SpecialAffixes affixes) const {
  Encoding encoding;
  std::string raw;
  for (const TextSegment& segment : segments) {
    const size_t begin = raw.size();
    if (segment.text.size() > kMaxTextBytes - begin) {
      return absl::InvalidArgumentError(
          absl::StrCat("text to encode is longer than ", kMaxTextBytes, " bytes"));
    }
    absl::StrAppend(&raw, segment.text);
    if (segment.special_text == SpecialText::kPlain && begin < raw.size()) {
      encoding.plain_ranges.emplace_back(begin, raw.size());
    }
  }
  const size_t valid = ValidUtf8Prefix(raw);
  if (valid != raw.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("text to encode is not UTF-8 at byte ", valid, " of ", raw.size()));
  }
  std::vector<int32_t>& ids = encoding.ids;
  if (affixes == SpecialAffixes::kAdd) ids = post_processor_.before;
  added_.Split(AddedTokens::Stage::kRaw, raw,
               {.plain =
                    [&](size_t begin, size_t end) {
                      EncodePlain(absl::string_view(raw).substr(begin, end - begin), begin,
                                  &encoding);
                    },
                .token = [&](int32_t id) { ids.push_back(id); },
                .allowed =
                    [&](const AddedToken& token, size_t begin, size_t end) {
                      return !token.special || !encoding.OverlapsPlain(begin, end);
                    }});
  if (affixes == SpecialAffixes::kAdd) {
    ids.insert(ids.end(), post_processor_.after.begin(), post_processor_.after.end());
  }
  return std::move(encoding.ids);
}

// `raw` begins at byte `begin` of the whole text. Positions inside it are lost by normalization, so
// that tokens matched after it count as plain text when any part of `raw` does.
void Tokenizer::EncodePlain(absl::string_view raw, size_t begin, Encoding* encoding) const {
  const bool match_special = !encoding->OverlapsPlain(begin, begin + raw.size());
  const std::string text = normalizer_.Apply(raw);
  const auto encode_piece = [&](absl::string_view piece) {
    model_.Encode(piece, &encoding->workspace, &encoding->ids);
  };
  added_.Split(AddedTokens::Stage::kNormalized, text,
               {.plain =
                    [&](size_t from, size_t to) {
                      pre_tokenizer_.Run(absl::string_view(text).substr(from, to - from),
                                         /*at_start=*/begin == 0 && from == 0, encode_piece);
                    },
                .token = [&](int32_t id) { encoding->ids.push_back(id); },
                .allowed = [&](const AddedToken& token, size_t /*begin*/,
                               size_t /*end*/) { return !token.special || match_special; }});
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, DecodeSpecial special) const {
  std::string text;
  Decoder::State state = decoder_.Start();
  for (const int32_t id : ids) {
    const std::string* token = DecodedToken(id, special);
    if (token != nullptr) decoder_.Push(&state, *token, &text);
  }
  decoder_.Flush(&state, &text);
  return text;
}

const std::string* Tokenizer::DecodedToken(int32_t id, DecodeSpecial special) const {
  const AddedToken* added = added_.Find(id);
  const std::string* text = added != nullptr ? &added->decoded : model_.FindToken(id);
  if (text == nullptr || (special == DecodeSpecial::kSkip && added_.IsSpecialText(*text))) {
    return nullptr;
  }
  return text;
}

std::optional<int32_t> Tokenizer::IdOf(absl::string_view token) const {
  const AddedToken* added = added_.Find(token);
  if (added != nullptr) return added->id;
  return model_.FindId(token);
}

std::string Tokenizer::TokenBytes(int32_t id) const {
  const std::string* text = DecodedToken(id, DecodeSpecial::kKeep);
  return text == nullptr ? "" : decoder_.Bytes(*text);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const AddedToken* added = added_.Find(id);
  return added != nullptr && added->special;
}

int64_t Tokenizer::vocabulary_size() const { return std::max(model_.id_end(), added_.id_end()); }

}  // namespace tessera
