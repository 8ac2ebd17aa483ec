#include "common/dtype.h"

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::StatusIs;

TEST(DType, ReadsTheSpellingsOfConfigJson) {
  EXPECT_EQ(ParseFloatDType("bfloat16").value(), DType::kBf16);
  EXPECT_EQ(ParseFloatDType("float16").value(), DType::kF16);
  EXPECT_EQ(ParseFloatDType("float32").value(), DType::kF32);
}

TEST(DType, NameReadsBackAsTheSameType) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
    EXPECT_EQ(ParseFloatDType(Name(dtype)).value(), dtype);
  }
}

TEST(DType, LongNameIsWhatConfigJsonSays) {
  EXPECT_EQ(LongName(DType::kBf16), "bfloat16");
  EXPECT_EQ(LongName(DType::kF32), "float32");
}

TEST(DType, UnknownTextIsInvalidArgumentAndNamed) {
  EXPECT_THAT(ParseFloatDType("int4"),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("\"int4\"")));
}

}  // namespace
}  // namespace tessera
