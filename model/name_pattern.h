// Regular expressions over module names, as quantization configs hold them; bounded in time and
// memory whatever the pattern.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

namespace tessera {

// Understands literals, `.`, `\.` and other escaped punctuation, `\d`, `\w`, classes such as
// `[0-9]`, groups `(a|b)` and `(?:a|b)`, `*`, `+`, `?`, `^` and `$`. Matching simulates all
// alternatives at once: time is at most pattern length times text length.
class NamePattern {
 public:
  // kUnimplemented: syntax other than the above, more than 512 bytes, or groups nested more than 16
  // deep. The message shows the pattern.
  static absl::StatusOr<NamePattern> Parse(absl::string_view pattern);

  // Whether the pattern matches at the start of `name` (Python's re.match).
  bool MatchesStart(absl::string_view name) const { return Run(name, /*anywhere=*/false); }
  // Whether it matches anywhere in `name` (re.search).
  bool MatchesWithin(absl::string_view name) const { return Run(name, /*anywhere=*/true); }

 private:
  friend class PatternParser;
  using Bytes = std::bitset<256>;
  enum class Op : uint8_t { kByte, kSplit, kBegin, kEnd, kMatch };
  struct Instruction {
    Op op = Op::kMatch;
    Bytes bytes;             // kByte
    int next = 0, also = 0;  // places in program_; also: kSplit's other
  };

  bool Run(absl::string_view name, bool anywhere) const;

  std::vector<Instruction> program_;
  int start_ = 0;
};

// Whether `text` holds anything that a pattern gives a meaning (a plain name holds dots at most).
bool HasPatternSyntax(absl::string_view text);

}  // namespace tessera
