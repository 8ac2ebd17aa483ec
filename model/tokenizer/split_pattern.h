// The regular expressions that byte-level tokenizers cut text with, as hand-written scanners that
// look at each character a bounded number of times.
#pragma once

#include <cstddef>
#include <optional>

#include <absl/strings/string_view.h>

namespace tessera {

enum class SplitPattern {
  kGpt2,    // ByteLevel's own pattern (use_regex)
  kQwen2,   // Qwen2, Qwen2.5, Qwen3: numbers digit by digit
  kLlama3,  // Llama 3, cl100k: numbers three digits at a time
};

// The scanner for a pattern's exact text, or nullopt when none behaves as that text does.
std::optional<SplitPattern> FindSplitPattern(absl::string_view regex);

// Where the match that begins at `begin` ends. `text` is valid UTF-8, `begin` < text.size().
// Matches cover any text without gaps; the end of `text` counts as the end of input for lookahead.
size_t SplitEnd(SplitPattern pattern, absl::string_view text, size_t begin);

}  // namespace tessera
