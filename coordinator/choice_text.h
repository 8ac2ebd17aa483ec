// The text of one choice: detokenized as tokens come, cut before the first stop string.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/tokenizer/stop_strings.h"
#include "model/tokenizer/text_stream.h"
#include "model/tokenizer/tokenizer.h"

namespace tessera {

class ChoiceText {
 public:
  // `tokenizer` (borrowed) may be null: the text then stays empty and `stop` must be empty.
  // `stop` holds checked stop strings: not empty, UTF-8. The text goes on behind `prompt`: a word
  // that begins with a space keeps it.
  ChoiceText(const Tokenizer* tokenizer, const std::vector<std::string>& stop,
             const std::vector<int32_t>& prompt);

  // Takes one token and appends to `text` what may be shown. True: a stop string is complete;
  // nothing may be pushed after it.
  bool Push(int32_t id, std::string& text);
  // Appends what was held back, at an end without a stop string. True: what the decoder still
  // held completed a stop string.
  bool Finish(std::string& text);

 private:
  std::optional<TextStream> stream_;
  std::optional<StopStrings> stop_;
};

}  // namespace tessera
