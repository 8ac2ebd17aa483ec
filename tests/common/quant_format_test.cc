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

TEST(QuantFormat, UnknownNameListsTheKnownOnes) {
  EXPECT_THAT(ParseQuantFormat("int5"),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("gptq-int4")));
}

}  // namespace
}  // namespace tessera
