// Text to token ids and back, as the Hugging Face `tokenizers` library does it for the byte-pair
// encodings of Qwen, Llama and their kin. docs: tokenizer.json's stages are normalizer, added
// tokens, pre_tokenizer, model, post_processor; decoder on the way back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/decoder.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/post_processor.h"
#include "model/tokenizer/pre_tokenizer.h"

namespace tessera {

// What a special token's spelling inside a text becomes: the token (as transformers does), or the
// ordinary tokens of its letters. Added tokens that are not special are matched either way.
enum class SpecialText { kMatch, kPlain };

// The template's own tokens (beginning of text, ...) around the text.
enum class SpecialAffixes { kNone, kAdd };

struct EncodeOptions {
  SpecialAffixes affixes = SpecialAffixes::kNone;
  SpecialText special_text = SpecialText::kMatch;
};

// A stretch of a text that is encoded as one.
struct TextSegment {
  absl::string_view text;
  SpecialText special_text = SpecialText::kMatch;
};

enum class DecodeSpecial { kKeep, kSkip };

// Immutable; all methods are safe on several threads.
class Tokenizer {
 public:
  // Reads tokenizer.json, and tokenizer_config.json when it is there, in `dir`. Every error names
  // the file and, where there is one, the field. Truncation and padding in the file are ignored, as
  // transformers does.
  // kNotFound: no tokenizer.json. kDataLoss, kInvalidArgument: a file is broken or larger than 64
  // MiB. kUnimplemented: it needs something that is not built here; the message says what.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& dir);

  // The token ids of `text`, at most 256 MiB. O(n log n).
  // kInvalidArgument: not UTF-8 (the message gives the byte), or too long.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, EncodeOptions options) const;

  // As Encode of the segments' texts joined, but that a special token is only matched where all of
  // it lies in kMatch segments. Segment borders cut nothing else.
  absl::StatusOr<std::vector<int32_t>> EncodeSegments(absl::Span<const TextSegment> segments,
                                                      SpecialAffixes affixes) const;

  // The text of `ids`, always valid UTF-8. Ids that are no token contribute nothing.
  std::string Decode(absl::Span<const int32_t> ids, DecodeSpecial special) const;

  // The id of a token by its spelling in the vocabulary ("<|im_end|>", "Ġthe"); nullopt: no such
  // token.
  std::optional<int32_t> IdOf(absl::string_view token) const;
  // The bytes that the token adds to a text that has begun, perhaps part of a character; empty for
  // an id that is no token.
  std::string TokenBytes(int32_t id) const;
  // True for added tokens marked special.
  bool IsSpecial(int32_t id) const;
  // One more than the largest id. A model's embedding may have more rows, which stand for nothing.
  int64_t vocabulary_size() const;

  // The tokens that tokenizer_config.json names; nullopt when it names none or no known one.
  std::optional<int32_t> bos_id() const { return bos_id_; }
  std::optional<int32_t> eos_id() const { return eos_id_; }
  std::optional<int32_t> pad_id() const { return pad_id_; }

  // For TextStream: what the decoder is fed for `id`; null when it is fed nothing.
  const std::string* DecodedToken(int32_t id, DecodeSpecial special) const;
  const Decoder& decoder() const { return decoder_; }

 private:
  struct Encoding;
  Tokenizer() = default;
  absl::Status ReadTokenizer(const std::string& path);
  absl::Status ReadConfig(const std::string& path);
  void EncodePlain(absl::string_view raw, size_t begin, Encoding* encoding) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BpeModel model_;
  AddedTokens added_;
  PostProcessor post_processor_;
  Decoder decoder_;
  std::optional<int32_t> bos_id_, eos_id_, pad_id_;
};

}  // namespace tessera
