#include "common/quant_format.h"

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::StatusIs;

TEST(QuantFormat, DenseBytesAreElementsTimesSize) {
  EXPECT_EQ(WeightBytes({}, DType::kBf16, 3, 5), 30);
  EXPECT_EQ(WeightBytes({}, DType::kF32, 3, 5), 60);
}

TEST(QuantFormat, Int4BytesCountValuesAndScalesPerGroup) {
  // 256 x 256 at 4 bits: 32768 bytes of values; 2 groups x 256 rows x 2-byte scales: 1024.
  EXPECT_EQ(WeightBytes(ParseQuantFormat("gptq-int4").value(), DType::kBf16, 256, 256), 33792);
}

TEST(QuantFormat, AsymmetricFormatsAddZeroPoints) {
  // As above plus 2 x 256 zero points of 4 bits: 256 bytes.
  EXPECT_EQ(WeightBytes(ParseQuantFormat("awq").value(), DType::kBf16, 256, 256), 34048);
}

// 7B's down projection: 3584 x 18944 at 4 bits is 33,947,648 bytes and 148 groups of 3584 scales. A
// GPTQ file has half a byte of zero point a scale and 4 bytes of g_idx an input beside them.
TEST(QuantFormat, Int4TakesNoMoreThanTheFile) {
  const QuantFormat format = ParseQuantFormat("gptq-int4").value();
  const int64_t bytes = WeightBytes(format, DType::kBf16, 3584, 18944);
  EXPECT_EQ(bytes, 33947648 + 148 * 3584 * 2);
  EXPECT_LT(bytes, 33947648 + 148 * 3584 * 5 / 2 + 4 * 18944);
}

TEST(QuantFormat, TwoAndThreeBitsTakeTheMemoryOfFour) {
  for (const int bits : {2, 3}) {
    EXPECT_EQ(WeightBytes({QuantMethod::kGptq, bits, 128, true}, DType::kBf16, 256, 256),
              WeightBytes({QuantMethod::kGptq, 4, 128, true}, DType::kBf16, 256, 256));
  }
}

TEST(QuantFormat, PiecesOfAPackedWeightFollowOneAnother) {
  const PackedOffsets at = PackedOffsetsOf(
      {.bits = 8, .n = 24, .k = 96, .groups = 3, .zeros = true, .ragged = true, .ordered = true});
  EXPECT_EQ(at.scales, 24 * 128);               // 96 bytes are two blocks of 64
  EXPECT_EQ(at.zeros, at.scales + 3 * 24 * 2);  // 144
  EXPECT_EQ(at.steps, at.zeros + 3 * 32);       // rows of 24 bytes, rounded up to 32
  EXPECT_EQ(at.order, at.steps + 16);           // six 16-bit numbers, rounded up
  EXPECT_EQ(at.bytes, at.order + 96 * 4);
}

TEST(QuantFormat, NameIsTheTablesWithAnotherGroupBehindIt) {
  for (const NamedQuantFormat& named : NamedQuantFormats())
    EXPECT_EQ(NameOf(named.format), named.name);
  EXPECT_EQ(NameOf({.method = QuantMethod::kGptq, .bits = 4, .group = 32}), "gptq-int4-g32");
  EXPECT_EQ(NameOf({.method = QuantMethod::kGptq, .bits = 2, .group = 32}), "int2");
}

TEST(QuantFormat, UnknownNameListsTheKnownOnes) {
  EXPECT_THAT(ParseQuantFormat("int5"),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("gptq-int4")));
}

}  // namespace
}  // namespace tessera
