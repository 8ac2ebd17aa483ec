#include "model/tokenizer/unicode_class.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace tessera {
namespace {

struct ClassRange {
  char32_t first, last;
  CharClass char_class;
};
struct InertRange {
  char32_t first, last;
};

constexpr CharClass L = CharClass::kLetter;
constexpr CharClass M = CharClass::kMark;
constexpr CharClass N = CharClass::kNumber;
constexpr CharClass O = CharClass::kOtherNumber;
constexpr CharClass W = CharClass::kOtherWord;
constexpr CharClass S = CharClass::kSpace;
#include "model/tokenizer/unicode_ranges.inc"

// The range that holds `code_point`, or null.
template <typename Range, size_t n>
const Range* FindRange(const Range (&ranges)[n], char32_t code_point) {
  const Range* after =
      std::upper_bound(std::begin(ranges), std::end(ranges), code_point,
                       [](char32_t value, const Range& range) { return value < range.first; });
  if (after == std::begin(ranges) || code_point > std::prev(after)->last) return nullptr;
  return std::prev(after);
}

CharClass Search(char32_t code_point) {
  const ClassRange* range = FindRange(kClassRanges, code_point);
  return range == nullptr ? CharClass::kNone : range->char_class;
}

// Latin, Greek, Cyrillic: one load instead of eleven comparisons.
constexpr size_t kDirect = 0x600;
std::array<CharClass, kDirect> DirectTable() {
  std::array<CharClass, kDirect> table;
  for (char32_t c = 0; c < kDirect; ++c) table[c] = Search(c);
  return table;
}

}  // namespace

CharClass ClassOf(char32_t code_point) {
  static const std::array<CharClass, kDirect> direct = DirectTable();
  return code_point < kDirect ? direct[code_point] : Search(code_point);
}

bool IsInertInNfc(char32_t code_point) { return FindRange(kInertRanges, code_point) != nullptr; }

}  // namespace tessera
