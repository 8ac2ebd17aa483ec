// The character classes that split patterns and added tokens ask for.
#pragma once

#include <cstdint>

namespace tessera {

// Classes of Unicode 16 as Oniguruma and Rust's regex know them; disjoint.
enum class CharClass : uint8_t {
  kNone,         // punctuation, symbols, controls, unassigned
  kLetter,       // \p{L}
  kMark,         // \p{M}
  kNumber,       // \p{Nd} and \p{Nl}: numbers that are also word characters
  kOtherNumber,  // \p{No}
  kOtherWord,    // rest of \w: connectors, joiners, enclosed letters
  kSpace,        // \s, which is the White_Space property
};

CharClass ClassOf(char32_t code_point);

// \w of Rust's regex.
inline bool IsWord(CharClass c) {
  return c != CharClass::kNone && c != CharClass::kOtherNumber && c != CharClass::kSpace;
}
// \p{N}.
inline bool IsNumber(CharClass c) {
  return c == CharClass::kNumber || c == CharClass::kOtherNumber;
}

// True for code points younger than the normalization data of the `tokenizers` library (Unicode 9)
// that current Unicode reorders or composes: NFC there passes them through.
bool IsInertInNfc(char32_t code_point);

}  // namespace tessera
