// Token ids in, text out, as a model generates.
#pragma once

#include <cstdint>
#include <string>

#include <absl/types/span.h>

#include "model/tokenizer/decoder.h"
#include "model/tokenizer/tokenizer.h"

namespace tessera {

// Without a prompt, the pieces returned by Feed and Flush, joined, are Tokenizer::Decode of all
// ids. Each piece is whole characters, often none: text is held back until the tokens to come
// cannot change it. Not safe on several threads.
class TextStream {
 public:
  // `tokenizer` must outlive the stream.
  TextStream(const Tokenizer* tokenizer, DecodeSpecial special);

  // Starts behind a prompt that has been shown: what follows gets the leading space it has in the
  // middle of a text. A character that the prompt's last ids begin belongs to the text that
  // follows. Call it before the first Feed, with the whole prompt or its last part.
  void Prime(absl::Span<const int32_t> prompt_ids);

  std::string Feed(int32_t id);

  // The rest of the text, with U+FFFD for an incomplete character. Nothing may be fed afterwards.
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  DecodeSpecial special_;
  Decoder::State state_;
};

}  // namespace tessera
