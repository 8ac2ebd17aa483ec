// Random damage to texts, for tests that parsers survive it.
#pragma once

#include <cstddef>
#include <iterator>
#include <random>
#include <string>

namespace tessera::testing {

// `text` with one to three edits: a byte replaced, bytes removed, a JSON token or a piece of the
// text itself put in.
inline std::string Mutate(std::string text, std::mt19937& random) {
  static constexpr const char* kTokens[] = {
      "{",  "}",   "[",   "]",    ",", ":",   "\"",   "-",    "0",
      "9",  "e9",  "1.5", "\\u0", " ", "F32", "null", "true", "18446744073709551615",
      "I4", "\xff"};
  const auto below = [&random](size_t n) { return random() % n; };
  for (size_t edits = 1 + below(3); edits > 0 && !text.empty(); --edits) {
    const size_t at = below(text.size());
    switch (below(4)) {
      case 0:
        text[at] = static_cast<char>(below(256));
        break;
      case 1:
        text.erase(at, 1 + below(8));
        break;
      case 2:
        text.insert(at, kTokens[below(std::size(kTokens))]);
        break;
      default:
        text.insert(at, text.substr(below(text.size()), below(40)));
    }
  }
  return text;
}

}  // namespace tessera::testing
