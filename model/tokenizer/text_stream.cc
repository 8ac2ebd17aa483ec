#include "model/tokenizer/text_stream.h"

namespace tessera {

TextStream::TextStream(const Tokenizer* tokenizer, DecodeSpecial special)
    : tokenizer_(tokenizer), special_(special), state_(tokenizer->decoder().Start()) {}

void TextStream::Prime(absl::Span<const int32_t> prompt_ids) {
  for (const int32_t id : prompt_ids) Feed(id);
  tokenizer_->decoder().DropPending(&state_);
}

std::string TextStream::Feed(int32_t id) {
  std::string text;
  const std::string* token = tokenizer_->DecodedToken(id, special_);
  if (token != nullptr) tokenizer_->decoder().Push(&state_, *token, &text);
  return text;
}

std::string TextStream::Flush() {
  std::string text;
  tokenizer_->decoder().Flush(&state_, &text);
  return text;
}

}  // namespace tessera
