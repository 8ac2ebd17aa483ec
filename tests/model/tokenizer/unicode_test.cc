#include <gtest/gtest.h>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/nfc.h"
#include "model/tokenizer/unicode_class.h"
#include "model/tokenizer/utf8.h"

namespace tessera {
namespace {

TEST(Utf8, EveryScalarValueRoundTrips) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, &text);
    const Utf8Unit unit = ReadUtf8(text);
    ASSERT_EQ(unit.kind, Utf8Unit::Kind::kCharacter);
    ASSERT_EQ(unit.bytes, text.size());
    ASSERT_EQ(unit.code_point, c);
    ASSERT_EQ(CodePointBefore("x" + text, text.size() + 1), c);
  }
}

// The examples of The Unicode Standard, tables 3-8 to 3-11.
TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string r = kReplacementCharacter;
  const std::pair<std::string, std::string> cases[] = {
      {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", r + r + r + r + r + r + r + r + "A"},
      {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", r + r + r + r + r + "A" + r + r + "B"},
      {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", r + r + r + r + "A"},
  };
  for (auto [bytes, expected] : cases) {
    std::string out;
    MoveUtf8(&bytes, Utf8Tail::kReplace, &out);
    EXPECT_EQ(out, expected);
  }
}

TEST(Utf8, HoldsACharacterThatIsCutShort) {
  std::string pending = "a\xF0\x9F\x99";
  std::string out;
  MoveUtf8(&pending, Utf8Tail::kHold, &out);
  EXPECT_EQ(out, "a");
  EXPECT_EQ(pending, "\xF0\x9F\x99");
}

TEST(ByteLevel, EveryByteRoundTrips) {
  std::string bytes;
  for (int b = 0; b < 256; ++b) bytes.push_back(static_cast<char>(b));
  const std::string text = ToByteLevel(bytes);
  EXPECT_EQ(ValidUtf8Prefix(text), text.size());
  EXPECT_EQ(FromByteLevel(text), bytes);
}

// The alphabet's fixed points, from the reference given in FORMATS: U+0100 for 0, U+0120 for a
// space.
TEST(ByteLevel, UsesGpt2sAlphabet) {
  EXPECT_EQ(ToByteLevel(" Hello\n"), "\u0120Hello\u010a");
  EXPECT_EQ(ToByteLevel(std::string("\0\x7f\xad", 3)), "\u0100\u0121\u0143");
  EXPECT_EQ(FromByteLevel("\u0144"), std::nullopt);
  EXPECT_EQ(FromByteLevel(" "), std::nullopt);
}

TEST(UnicodeClass, KnowsWhiteSpaceFromWhatLooksLikeIt) {
  for (const uint32_t c : {0x9u, 0xAu, 0xBu, 0xCu, 0xDu, 0x20u, 0x85u, 0xA0u, 0x1680u, 0x2000u,
                           0x200Au, 0x2028u, 0x2029u, 0x202Fu, 0x205Fu, 0x3000u}) {
    EXPECT_EQ(ClassOf(c), CharClass::kSpace) << c;
  }
  for (const uint32_t c : {0x1Cu, 0x180Eu, 0x200Bu, 0x2060u, 0xFEFFu})
    EXPECT_NE(ClassOf(c), CharClass::kSpace) << c;
}

TEST(UnicodeClass, TellsNumbersThatAreWordCharactersFromOthers) {
  EXPECT_EQ(ClassOf(U'7'), CharClass::kNumber);
  EXPECT_EQ(ClassOf(U'\u0667'), CharClass::kNumber);       // Arabic-Indic digit, Nd
  EXPECT_EQ(ClassOf(U'\u2167'), CharClass::kNumber);       // Roman numeral eight, Nl
  EXPECT_EQ(ClassOf(U'\u00bd'), CharClass::kOtherNumber);  // one half, No
}

// Examples of Unicode Standard Annex 15, figures 3 to 5.
TEST(Nfc, ComposesAndReorders) {
  EXPECT_EQ(NormalizeNfc("A\u030a \u212b"), "\u00c5 \u00c5");
  EXPECT_EQ(NormalizeNfc("\u1e0b\u0323"), "\u1e0d\u0307");
  EXPECT_EQ(NormalizeNfc("q\u0307\u0323"), "q\u0323\u0307");
  EXPECT_EQ(NormalizeNfc("\ufb01"), "\ufb01");
  EXPECT_EQ(NormalizeNfc("\u1e9b\u0323"), "\u1e9b\u0323");
  EXPECT_EQ(NormalizeNfc("\u1112\u1161\u11ab"), "\ud55c");
}

TEST(Nfc, KeepsACharacterBeforeTheTrailingConsonants) {
  EXPECT_EQ(NormalizeNfc("\uac00\u11a7"), "\uac00\u11a7");
}

// U+1ABF (Unicode 13, class 220) would move before U+0301 in current Unicode; the library's data is
// older and leaves it.
TEST(Nfc, LeavesCharactersYoungerThanTheLibrarysData) {
  EXPECT_EQ(NormalizeNfc("q\u0301\u1abf"), "q\u0301\u1abf");
}

}  // namespace
}  // namespace tessera
