#include "model/tokenizer/byte_level.h"

#include <array>

#include "model/tokenizer/utf8.h"

namespace tessera {
namespace {

constexpr size_t kAlphabetEnd = 0x100 + 68;  // one past its last code point

bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<std::string, 256> text;          // of each byte
  std::array<int16_t, kAlphabetEnd> byte_of;  // of each code point; -1 outside the alphabet
};

Alphabet MakeAlphabet() {
  Alphabet alphabet;
  alphabet.byte_of.fill(-1);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t code_point = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
    AppendUtf8(code_point, &alphabet.text[static_cast<size_t>(byte)]);
    alphabet.byte_of[code_point] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

const Alphabet& GetAlphabet() {
  static const Alphabet alphabet = MakeAlphabet();
  return alphabet;
}

}  // namespace

std::string ToByteLevel(absl::string_view bytes) {
  const Alphabet& alphabet = GetAlphabet();
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) out.append(alphabet.text[static_cast<uint8_t>(c)]);
  return out;
}

std::optional<std::string> FromByteLevel(absl::string_view text) {
  const Alphabet& alphabet = GetAlphabet();
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t code_point = NextCodePoint(text, &pos);
    if (code_point >= kAlphabetEnd || alphabet.byte_of[code_point] < 0) return std::nullopt;
    out.push_back(static_cast<char>(alphabet.byte_of[code_point]));
  }
  return out;
}

}  // namespace tessera
