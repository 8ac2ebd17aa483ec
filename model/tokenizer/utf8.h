// UTF-8 one character at a time, valid or not.
#pragma once

#include <cstddef>
#include <string>

#include <absl/strings/string_view.h>

namespace tessera {

// The first character of a text, or the first bytes of it that can be no character. Bytes that
// begin a character but are broken off form one unit, as Unicode recommends for replacement (The
// Unicode Standard, section 3.9, "U+FFFD Substitution of Maximal Subparts").
struct Utf8Unit {
  enum class Kind { kCharacter, kInvalid, kCutShort };  // kCutShort: the text ends inside it
  Kind kind;
  size_t bytes;         // at least 1
  char32_t code_point;  // U+FFFD unless kCharacter
};

// `text` must not be empty.
Utf8Unit ReadUtf8(absl::string_view text);

// The code point at `*pos` of valid UTF-8; moves `*pos` behind it. `*pos` must be before the end.
char32_t NextCodePoint(absl::string_view text, size_t* pos);

// The code point that ends right before `end` in valid UTF-8; `end` must not be 0.
char32_t CodePointBefore(absl::string_view text, size_t end);

// Bytes of the longest prefix that is valid UTF-8.
size_t ValidUtf8Prefix(absl::string_view text);

// `code_point` must be a Unicode scalar value.
void AppendUtf8(char32_t code_point, std::string* out);

// Moves characters from `*pending` to the end of `*out`, each invalid unit as one U+FFFD. A unit
// cut short by the end stays in `*pending` (at most 3 bytes) with kHold; it becomes U+FFFD with
// kReplace.
enum class Utf8Tail { kHold, kReplace };
void MoveUtf8(std::string* pending, Utf8Tail tail, std::string* out);

inline constexpr char kReplacementCharacter[] = "\xef\xbf\xbd";  // U+FFFD

}  // namespace tessera
