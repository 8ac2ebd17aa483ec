#include "model/tokenizer/nfc.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <utf8proc.h>

#include "common/check.h"
#include "model/tokenizer/unicode_class.h"
#include "model/tokenizer/utf8.h"

namespace tessera {
namespace {

constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
constexpr int64_t kMaxDecomposition = 8;  // Unicode needs 4 for a canonical decomposition

int CombiningClass(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

void AppendDecomposed(char32_t code_point, std::vector<utf8proc_int32_t>* run) {
  utf8proc_int32_t parts[kMaxDecomposition];
  int boundary_class = 0;
  const utf8proc_ssize_t count =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code_point), parts, kMaxDecomposition,
                              kOptions, &boundary_class);
  TESSERA_CHECK(count >= 0 && count <= kMaxDecomposition, "U+", static_cast<uint32_t>(code_point),
                " decomposes to ", count);
  run->insert(run->end(), parts, parts + count);
}

// Sorts each run of non-starters by combining class. utf8proc_decompose does this with an insertion
// sort, which takes minutes on a megabyte of marks in the wrong order.
void ReorderMarks(std::vector<utf8proc_int32_t>* run) {
  auto begin = run->begin();
  while (begin != run->end()) {
    if (CombiningClass(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, run->end(), [](auto c) { return CombiningClass(c) == 0; });
    std::stable_sort(begin, end,
                     [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    begin = end;
  }
}

void ComposeInto(std::vector<utf8proc_int32_t>* run, std::string* out) {
  ReorderMarks(run);
  const utf8proc_ssize_t count =
      utf8proc_normalize_utf32(run->data(), static_cast<utf8proc_ssize_t>(run->size()), kOptions);
  TESSERA_CHECK(count >= 0, "utf8proc returned ", count);
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    AppendUtf8(static_cast<char32_t>((*run)[static_cast<size_t>(i)]), out);
  }
  run->clear();
}

}  // namespace

std::string NormalizeNfc(absl::string_view text) {
  // Everything below U+0300 (first byte below 0xCC) is in NFC already.
  const auto normal = [](char c) { return static_cast<uint8_t>(c) < 0xCC; };
  if (std::all_of(text.begin(), text.end(), normal)) return std::string(text);
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> run;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t code_point = NextCodePoint(text, &pos);
    // utf8proc takes U+11A7, one before the trailing consonants, for one and drops it.
    if (IsInertInNfc(code_point) || code_point == 0x11A7) {
      ComposeInto(&run, &out);
      AppendUtf8(code_point, &out);
    } else {
      AppendDecomposed(code_point, &run);
    }
  }
  ComposeInto(&run, &out);
  return out;
}

}  // namespace tessera
