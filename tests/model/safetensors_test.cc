#include "model/safetensors.h"

#include <random>
#include <string>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"
#include "tests/model/mutate.h"
#include "tests/model/safetensors_file.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::StatusIs;
using testing::TensorHeader;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;

// Parses a header in front of `body` bytes of tensors.
absl::StatusOr<std::vector<TensorEntry>> Parse(const std::string& header, int64_t body) {
  const int64_t file = kSafetensorsPrefixBytes + static_cast<int64_t>(header.size()) + body;
  ASSIGN_OR_RETURN(SafetensorsHeader parsed, ParseSafetensorsHeader(header, file, "w.safetensors"));
  return std::move(parsed.tensors);
}

absl::StatusOr<std::vector<TensorEntry>> Parse(const json& header, int64_t body) {
  return Parse(header.dump(), body);
}

// Two matrices, "b" before "a": 24 bytes of F32 and 8 of BF16.
json TwoTensors() {
  return {{"__metadata__", {{"format", "pt"}}},
          {"b", TensorHeader("F32", {2, 3}, 0, 24)},
          {"a", TensorHeader("BF16", {4}, 24, 32)}};
}

std::string Prefix(uint64_t length) { return testing::SafetensorsBytes("", "", length); }

TEST(ParseSafetensorsHeader, GivesTensorsInFileOrder) {
  const std::string header = TwoTensors().dump() + "  ";  // padded with spaces
  ASSERT_OK_AND_ASSIGN(const std::vector<TensorEntry> tensors, Parse(header, 32));
  ASSERT_EQ(tensors.size(), 2u);
  const auto body = 8 + static_cast<int64_t>(header.size());
  EXPECT_EQ(tensors[0].name, "b");
  EXPECT_EQ(tensors[0].dtype, DType::kF32);
  EXPECT_THAT(tensors[0].shape, ElementsAre(2, 3));
  EXPECT_EQ(tensors[0].offset, body);
  EXPECT_EQ(tensors[0].bytes, 24);
  EXPECT_EQ(tensors[1].name, "a");
  EXPECT_EQ(tensors[1].dtype, DType::kBf16);
  EXPECT_EQ(tensors[1].offset, body + 24);
  EXPECT_EQ(tensors[1].bytes, 8);
}

TEST(ParseSafetensorsHeader, GivesTheWritersMetadata) {
  const std::string header = TwoTensors().dump();
  ASSERT_OK_AND_ASSIGN(
      const SafetensorsHeader parsed,
      ParseSafetensorsHeader(header, 8 + static_cast<int64_t>(header.size()) + 32, "w"));
  EXPECT_THAT(parsed.metadata,
              ElementsAre(std::pair<const std::string, std::string>("format", "pt")));
}

TEST(ParseSafetensorsHeader, EveryDTypeOfOursIsRead) {
  const struct {
    std::string name;
    DType dtype;
  } cases[] = {{"F32", DType::kF32}, {"F16", DType::kF16}, {"BF16", DType::kBf16},
               {"I32", DType::kI32}, {"I64", DType::kI64}, {"I8", DType::kI8},
               {"U8", DType::kU8}};
  for (const auto& [name, dtype] : cases) {
    const int64_t bytes = 3 * SizeOf(dtype);
    ASSERT_OK_AND_ASSIGN(const std::vector<TensorEntry> tensors,
                         Parse(json{{"w", TensorHeader(name, {3}, 0, bytes)}}, bytes));
    EXPECT_EQ(tensors[0].dtype, dtype) << name;
  }
}

TEST(ParseSafetensorsHeader, ScalarsAndEmptyTensorsAreLegal) {
  const json header = {{"scalar", TensorHeader("F32", json::array(), 0, 4)},
                       {"empty", TensorHeader("F32", {0, 7}, 4, 4)}};
  ASSERT_OK_AND_ASSIGN(const std::vector<TensorEntry> tensors, Parse(header, 4));
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].rows(), 1);
  EXPECT_EQ(tensors[0].cols(), 1);
  EXPECT_EQ(tensors[1].bytes, 0);
}

TEST(ParseSafetensorsHeader, NoTensorsIsLegal) {
  ASSERT_OK_AND_ASSIGN(const std::vector<TensorEntry> tensors, Parse(std::string("{}"), 0));
  EXPECT_TRUE(tensors.empty());
}

TEST(TensorEntry, IsSeenAsAMatrix) {
  TensorEntry tensor;
  tensor.shape = {5};
  EXPECT_EQ(tensor.rows(), 1);
  EXPECT_EQ(tensor.cols(), 5);
  tensor.shape = {2, 3, 5};
  EXPECT_EQ(tensor.rows(), 6);
  EXPECT_EQ(tensor.cols(), 5);
}

TEST(ParseSafetensorsHeader, DTypesOfTheFormatThatAreNotOursAreUnimplemented) {
  for (const std::string dtype :
       {"BOOL", "I16", "U16", "U32", "U64", "F64", "C64", "F8_E5M2", "F8_E4M3", "F8_E8M0",
        "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F6_E2M3", "F6_E3M2", "F4"}) {
    EXPECT_THAT(Parse(json{{"w", TensorHeader(dtype, {8}, 0, 8)}}, 8),
                StatusIs(absl::StatusCode::kUnimplemented,
                         AllOf(HasSubstr("w.safetensors"), HasSubstr("\"w\""), HasSubstr(dtype))));
  }
}

TEST(ParseSafetensorsHeader, UnknownDTypeIsDataLoss) {
  for (const std::string dtype : {"f32", "FLOAT", "", "BF17"})
    EXPECT_THAT(Parse(json{{"w", TensorHeader(dtype, {2}, 0, 8)}}, 8),
                StatusIs(kDataLoss, HasSubstr("dtype")));
}

TEST(ParseSafetensorsHeader, TextThatIsNoHeaderIsDataLoss) {
  for (const std::string text :
       {"", " {}", "[]", "{", "{}x", "{\"a\": 1}", "{\"a\": null}", "{\"\xff\": {}}", "{\"a\": {}}",
        "{\"__metadata__\": 3}", "{\"__metadata__\": {\"format\": 1}}"}) {
    EXPECT_THAT(Parse(text, 0), StatusIs(kDataLoss, HasSubstr("w.safetensors"))) << text;
  }
}

TEST(ParseSafetensorsHeader, DeepNestingIsDataLoss) {
  EXPECT_THAT(Parse("{\"a\":" + std::string(100000, '['), 0),
              StatusIs(kDataLoss, HasSubstr("100001 levels")));
}

TEST(ParseSafetensorsHeader, DuplicateNamesAreDataLoss) {
  const std::string entry = TensorHeader("F32", {0}, 0, 0).dump();
  EXPECT_THAT(Parse(absl::StrCat("{\"w\":", entry, ",\"w\":", entry, "}"), 0),
              StatusIs(kDataLoss, HasSubstr("\"w\" appears twice")));
}

TEST(ParseSafetensorsHeader, NamesAreBounded) {
  for (const std::string& name : {std::string(), std::string(1025, 'x'), std::string("a\0b", 3)})
    EXPECT_THAT(Parse(json{{name, TensorHeader("F32", {1}, 0, 4)}}, 4),
                StatusIs(kDataLoss, HasSubstr("name")));
}

TEST(ParseSafetensorsHeader, RankIsBounded) {
  const json shape(17, 1);
  EXPECT_THAT(Parse(json{{"w", TensorHeader("F32", shape, 0, 4)}}, 4),
              StatusIs(kDataLoss, HasSubstr("rank 17, at most 16")));
}

TEST(ParseSafetensorsHeader, ShapesAreWholeNumbers) {
  for (const json& size :
       {json(-1), json(1.0), json(1e3), json("1"), json(nullptr), json(uint64_t{1} << 63)}) {
    EXPECT_THAT(Parse(json{{"w", TensorHeader("F32", {size}, 0, 4)}}, 4),
                StatusIs(kDataLoss, HasSubstr("shape")))
        << size;
  }
}

TEST(ParseSafetensorsHeader, ShapesWhoseProductOverflowsAreDataLoss) {
  constexpr int64_t kBig = int64_t{1} << 32;
  for (const json& shape :
       {json{kBig, kBig}, json{kBig, kBig, 0}, json{0, kBig, kBig}, json{int64_t{1} << 62}}) {
    EXPECT_THAT(Parse(json{{"w", TensorHeader("F32", shape, 0, 0)}}, 0),
                StatusIs(kDataLoss, HasSubstr("exceed 63 bits")))
        << shape;
  }
}

TEST(ParseSafetensorsHeader, OffsetsAreTwoWholeNumbersInOrder) {
  for (const std::string offsets :
       {"[-4, 0]", "[0.0, 4.0]", "[0, 4e0]", "[4, 0]", "[0]", "[0, 4, 4]", "4", "[0, \"4\"]",
        "[0, 18446744073709551616]", "[18446744073709551612, 18446744073709551616]"}) {
    EXPECT_THAT(Parse(absl::StrCat("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":",
                                   offsets, "}}"),
                      4),
                StatusIs(kDataLoss, HasSubstr("data_offsets")))
        << offsets;
  }
}

TEST(ParseSafetensorsHeader, MissingFieldsAreNamed) {
  for (const std::string field : {"dtype", "shape", "data_offsets"}) {
    json entry = TensorHeader("F32", {1}, 0, 4);
    entry.erase(field);
    EXPECT_THAT(Parse(json{{"w", entry}}, 4), StatusIs(kDataLoss, HasSubstr(field)));
  }
}

TEST(ParseSafetensorsHeader, BytesMustBeTheShapes) {
  EXPECT_THAT(Parse(json{{"w", TensorHeader("F32", {3}, 0, 8)}}, 8),
              StatusIs(kDataLoss, "w.safetensors: tensor \"w\": file has 8 bytes, shape needs 12"));
}

TEST(ParseSafetensorsHeader, OverlapIsDataLoss) {
  const json header = {{"a", TensorHeader("F32", {2}, 0, 8)},
                       {"b", TensorHeader("F32", {2}, 4, 12)}};
  EXPECT_THAT(Parse(header, 12), StatusIs(kDataLoss, HasSubstr("begins at 4")));
}

TEST(ParseSafetensorsHeader, TwoTensorsOnTheSameBytesAreDataLoss) {
  const json header = {{"a", TensorHeader("F32", {2}, 0, 8)},
                       {"b", TensorHeader("F32", {2}, 0, 8)}};
  EXPECT_THAT(Parse(header, 8), StatusIs(kDataLoss, HasSubstr("begins at 0")));
}

TEST(ParseSafetensorsHeader, GapIsDataLoss) {
  const json header = {{"a", TensorHeader("F32", {1}, 0, 4)},
                       {"b", TensorHeader("F32", {1}, 8, 12)}};
  EXPECT_THAT(Parse(header, 12), StatusIs(kDataLoss, HasSubstr("begins at 8")));
}

TEST(ParseSafetensorsHeader, TruncatedBodyIsDataLoss) {
  EXPECT_THAT(Parse(TwoTensors(), 31), StatusIs(kDataLoss, HasSubstr("after the file")));
}

TEST(ParseSafetensorsHeader, TrailingBytesAreDataLoss) {
  EXPECT_THAT(Parse(TwoTensors(), 33),
              StatusIs(kDataLoss, HasSubstr("33 bytes after the header, the tensors take 32")));
}

TEST(ParseSafetensorsPrefix, IsLittleEndian) {
  ASSERT_OK_AND_ASSIGN(const int64_t length,
                       ParseSafetensorsPrefix(Prefix(0x010203), 1 << 20, "w"));
  EXPECT_EQ(length, 0x010203);
}

TEST(ParseSafetensorsPrefix, LengthsBeyondTheLimitOrTheFileAreDataLoss) {
  EXPECT_OK(ParseSafetensorsPrefix(Prefix(92), 100, "w"));
  EXPECT_THAT(ParseSafetensorsPrefix(Prefix(93), 100, "w"),
              StatusIs(kDataLoss, "w: a header of 93 bytes in a file of 100"));
  EXPECT_OK(ParseSafetensorsPrefix(Prefix(100'000'000), int64_t{1} << 40, "w"));
  EXPECT_THAT(ParseSafetensorsPrefix(Prefix(100'000'001), int64_t{1} << 40, "w"),
              StatusIs(kDataLoss, HasSubstr("at most 100000000")));
  EXPECT_THAT(ParseSafetensorsPrefix(Prefix(~uint64_t{0}), int64_t{1} << 40, "w"),
              StatusIs(kDataLoss, HasSubstr("18446744073709551615")));
}

TEST(ParseSafetensorsPrefix, ShortFileIsDataLoss) {
  for (size_t bytes = 0; bytes < 8; ++bytes)
    EXPECT_THAT(ParseSafetensorsPrefix(std::string(bytes, '\0'), static_cast<int64_t>(bytes), "w"),
                StatusIs(kDataLoss, HasSubstr("too short")));
}

// Every outcome but a crash is right; what is accepted must lie inside the file.
TEST(ParseSafetensorsHeader, MutatedHeadersNeverReachOutsideTheFile) {
  const std::string valid = TwoTensors().dump();
  std::mt19937 random(20261120);
  int accepted = 0;
  for (int i = 0; i < 5000; ++i) {
    const std::string header = testing::Mutate(valid, random);
    const auto tensors = Parse(header, 32);
    if (!tensors.ok()) continue;
    ++accepted;
    for (const TensorEntry& tensor : *tensors) {
      ASSERT_GE(tensor.offset, 8 + static_cast<int64_t>(header.size())) << header;
      ASSERT_LE(tensor.offset + tensor.bytes, 40 + static_cast<int64_t>(header.size())) << header;
    }
  }
  EXPECT_GT(accepted, 0);  // renamed tensors and the like stay valid
}

}  // namespace
}  // namespace tessera
