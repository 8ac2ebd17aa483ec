#include "model/tokenizer/utf8.h"

#include <cstdint>

namespace tessera {
namespace {

uint8_t ByteAt(absl::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

// What may follow a first byte (The Unicode Standard, table 3-7).
struct Lead {
  size_t more;         // bytes that follow; 0 for a byte that begins no sequence
  uint8_t low, high;   // range of the second byte; later ones are 80..BF
  uint8_t value_mask;  // bits of the first byte that belong to the code point
};

Lead LeadOf(uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {1, 0x80, 0xBF, 0x1F};
  if (byte == 0xE0) return {2, 0xA0, 0xBF, 0x0F};
  if (byte == 0xED) return {2, 0x80, 0x9F, 0x0F};
  if (byte >= 0xE1 && byte <= 0xEF) return {2, 0x80, 0xBF, 0x0F};
  if (byte == 0xF0) return {3, 0x90, 0xBF, 0x07};
  if (byte >= 0xF1 && byte <= 0xF3) return {3, 0x80, 0xBF, 0x07};
  if (byte == 0xF4) return {3, 0x80, 0x8F, 0x07};
  return {0, 0, 0, 0};
}

}  // namespace

Utf8Unit ReadUtf8(absl::string_view text) {
  const uint8_t first = ByteAt(text, 0);
  if (first < 0x80) return {Utf8Unit::Kind::kCharacter, 1, first};
  const Lead lead = LeadOf(first);
  if (lead.more == 0) return {Utf8Unit::Kind::kInvalid, 1, 0xFFFD};
  auto code_point = static_cast<char32_t>(first & lead.value_mask);
  for (size_t i = 1; i <= lead.more; ++i) {
    if (i == text.size()) return {Utf8Unit::Kind::kCutShort, i, 0xFFFD};
    const uint8_t byte = ByteAt(text, i);
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) return {Utf8Unit::Kind::kInvalid, i, 0xFFFD};
    code_point = (code_point << 6) | (byte & 0x3Fu);
  }
  return {Utf8Unit::Kind::kCharacter, lead.more + 1, code_point};
}

char32_t NextCodePoint(absl::string_view text, size_t* pos) {
  const Utf8Unit unit = ReadUtf8(text.substr(*pos));
  *pos += unit.bytes;
  return unit.code_point;
}

char32_t CodePointBefore(absl::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (ByteAt(text, begin) & 0xC0) == 0x80) --begin;
  return ReadUtf8(text.substr(begin, end - begin)).code_point;
}

size_t ValidUtf8Prefix(absl::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    const Utf8Unit unit = ReadUtf8(text.substr(pos));
    if (unit.kind != Utf8Unit::Kind::kCharacter) break;
    pos += unit.bytes;
  }
  return pos;
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto put = [out](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

void MoveUtf8(std::string* pending, Utf8Tail tail, std::string* out) {
  const absl::string_view text = *pending;
  size_t pos = 0;
  while (pos < text.size()) {
    const Utf8Unit unit = ReadUtf8(text.substr(pos));
    if (unit.kind == Utf8Unit::Kind::kCutShort && tail == Utf8Tail::kHold) break;
    if (unit.kind == Utf8Unit::Kind::kCharacter) {
      out->append(text.data() + pos, unit.bytes);
    } else {
      out->append(kReplacementCharacter);
    }
    pos += unit.bytes;
  }
  pending->erase(0, pos);
}

}  // namespace tessera
