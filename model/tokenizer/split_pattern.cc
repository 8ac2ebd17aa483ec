#include "model/tokenizer/split_pattern.h"

#include "model/tokenizer/unicode_class.h"
#include "model/tokenizer/utf8.h"

namespace tessera {
namespace {

struct KnownPattern {
  absl::string_view regex;
  SplitPattern pattern;
};
// The last two are cl100k_base's spellings: possessive quantifiers before a disjoint class, and \s*
// running up to a last [\r\n], match exactly what Llama 3's text does.
constexpr KnownPattern kKnownPatterns[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
     SplitPattern::kGpt2},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     SplitPattern::kQwen2},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     SplitPattern::kLlama3},
    {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
     SplitPattern::kLlama3},
};

struct Char {
  char32_t code_point;
  CharClass char_class;
  size_t end;   // byte position behind it
  bool exists;  // false at the end of the text; the class is then kNone

  bool IsLetter() const { return char_class == CharClass::kLetter; }
  bool IsDigit() const { return IsNumber(char_class); }
  bool IsSpace() const { return char_class == CharClass::kSpace; }
  bool IsNewline() const { return exists && (code_point == '\r' || code_point == '\n'); }
  bool IsSymbol() const { return exists && !IsLetter() && !IsDigit() && !IsSpace(); }
};

Char CharAt(absl::string_view text, size_t pos) {
  if (pos >= text.size()) return {0, CharClass::kNone, pos, false};
  size_t end = pos;
  const char32_t code_point = NextCodePoint(text, &end);
  return {code_point, ClassOf(code_point), end, true};
}

// Behind the run of characters from `pos` on that satisfy `accept`.
template <typename Accept>
size_t RunEnd(absl::string_view text, size_t pos, Accept accept) {
  for (Char c = CharAt(text, pos); c.exists && accept(c); c = CharAt(text, pos)) pos = c.end;
  return pos;
}
size_t LettersEnd(absl::string_view text, size_t pos) {
  return RunEnd(text, pos, [](const Char& c) { return c.IsLetter(); });
}
size_t SymbolsEnd(absl::string_view text, size_t pos) {
  return RunEnd(text, pos, [](const Char& c) { return c.IsSymbol(); });
}

// Behind 's 't 're 've 'm 'll 'd at `pos`, or `pos` when there is none. Case-insensitive matching
// also takes U+017F, which folds to s; no other character folds to one of these letters.
size_t ContractionEnd(absl::string_view text, size_t pos, bool any_case) {
  const auto letter = [&](size_t at) -> char {
    const Char c = CharAt(text, at);
    if (!c.exists) return 0;
    if (any_case && c.code_point == 0x17F) return 's';
    if (any_case && c.code_point >= 'A' && c.code_point <= 'Z') {
      return static_cast<char>(c.code_point + 32);
    }
    return c.code_point < 0x80 ? static_cast<char>(c.code_point) : '\0';
  };
  if (text[pos] != '\'') return pos;
  const size_t after_first = CharAt(text, pos + 1).end;
  switch (letter(pos + 1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return after_first;
    case 'r':
    case 'v':
      return letter(after_first) == 'e' ? after_first + 1 : pos;
    case 'l':
      return letter(after_first) == 'l' ? after_first + 1 : pos;
    default:
      return pos;
  }
}

// \s+(?!\S)|\s+ at `begin`: the whole run of white space at the end of the text, else all but its
// last character, else that one.
size_t SpacesEnd(absl::string_view text, size_t begin) {
  size_t last = begin;
  size_t end = begin;
  for (Char c = CharAt(text, end); c.IsSpace(); c = CharAt(text, end)) {
    last = end;
    end = c.end;
  }
  return end == text.size() || last == begin ? end : last;
}

// \s*[\r\n]+ at `begin`: through the last newline of the run of white space; `begin` if it has
// none.
size_t NewlinesEnd(absl::string_view text, size_t begin) {
  size_t after_newline = begin;
  size_t end = begin;
  for (Char c = CharAt(text, end); c.IsSpace(); c = CharAt(text, end)) {
    end = c.end;
    if (c.IsNewline()) after_newline = end;
  }
  return after_newline;
}

size_t Gpt2End(absl::string_view text, size_t begin) {
  const size_t contraction = ContractionEnd(text, begin, /*any_case=*/false);
  if (contraction != begin) return contraction;
  const size_t start = text[begin] == ' ' ? begin + 1 : begin;
  const Char c = CharAt(text, start);
  if (c.IsLetter()) return LettersEnd(text, start);
  if (c.IsDigit()) return RunEnd(text, start, [](const Char& d) { return d.IsDigit(); });
  if (c.IsSymbol()) return SymbolsEnd(text, start);
  return SpacesEnd(text, begin);
}

// Qwen2's and Llama 3's patterns, which differ in how many digits a match takes.
size_t NewerEnd(absl::string_view text, size_t begin, int max_digits) {
  const size_t contraction = ContractionEnd(text, begin, /*any_case=*/true);
  if (contraction != begin) return contraction;
  const Char first = CharAt(text, begin);
  if (first.IsLetter()) return LettersEnd(text, begin);
  if (first.IsDigit()) {
    size_t end = first.end;
    for (int digits = 1; digits < max_digits && CharAt(text, end).IsDigit(); ++digits) {
      end = CharAt(text, end).end;
    }
    return end;
  }
  const Char second = CharAt(text, first.end);
  if (!first.IsNewline() && second.IsLetter()) return LettersEnd(text, first.end);
  if (first.IsSymbol() || (first.code_point == ' ' && second.IsSymbol())) {
    return RunEnd(text, SymbolsEnd(text, first.end), [](const Char& c) { return c.IsNewline(); });
  }
  const size_t newlines = NewlinesEnd(text, begin);
  return newlines != begin ? newlines : SpacesEnd(text, begin);
}

}  // namespace

std::optional<SplitPattern> FindSplitPattern(absl::string_view regex) {
  for (const KnownPattern& known : kKnownPatterns) {
    if (known.regex == regex) return known.pattern;
  }
  return std::nullopt;
}

size_t SplitEnd(SplitPattern pattern, absl::string_view text, size_t begin) {
  switch (pattern) {
    case SplitPattern::kGpt2:
      return Gpt2End(text, begin);
    case SplitPattern::kQwen2:
      return NewerEnd(text, begin, /*max_digits=*/1);
    case SplitPattern::kLlama3:
      return NewerEnd(text, begin, /*max_digits=*/3);
  }
  return text.size();
}

}  // namespace tessera
