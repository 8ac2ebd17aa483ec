#include "model/json.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::absl::StatusCode;
using ::nlohmann::json;
using ::tessera::testing::StatusIs;
using ::testing::AllOf;
using ::testing::Eq;
using ::testing::HasSubstr;

TEST(ParseJson, ReadsEveryKindOfValue) {
  ASSERT_OK_AND_ASSIGN(
      const json value,
      ParseJson(R"( {"a": [1, -2, 2.5, true, null, "x\u00e9"], "b": {"c": {}}} )", "f"));
  EXPECT_EQ(value["a"][0], 1);
  EXPECT_EQ(value["a"][1], -2);
  EXPECT_EQ(value["a"][2], 2.5);
  EXPECT_EQ(value["a"][3], true);
  EXPECT_TRUE(value["a"][4].is_null());
  EXPECT_EQ(value["a"][5], "x\xc3\xa9");
  EXPECT_TRUE(value["b"]["c"].is_object());
  EXPECT_EQ(value.size(), 2u);
}

TEST(ParseJson, ReadsAScalar) {
  ASSERT_OK_AND_ASSIGN(const json value, ParseJson("7", "f"));
  EXPECT_EQ(value, 7);
}

TEST(ParseJson, KeepsContainersThatFollowNestedOnes) {
  ASSERT_OK_AND_ASSIGN(const json value, ParseJson(R"([[[1],2],[{"k":[3]},4],5])", "f"));
  EXPECT_EQ(value.dump(), R"([[[1],2],[{"k":[3]},4],5])");
}

TEST(ParseJson, BrokenTextIsDataLossNamingTheSource) {
  for (const char* text : {"", "{", "[1,]", "{\"a\":1,}", "[1] 2", "nul", "NaN", "[Infinity]",
                           "'a'", "{a:1}", "[01]", "\"\t\"", "// c\n1", "]"}) {
    EXPECT_THAT(ParseJson(text, "some.json"),
                StatusIs(StatusCode::kDataLoss, HasSubstr("some.json: byte ")))
        << text;
  }
}

TEST(ParseJson, InvalidUtf8IsDataLoss) {
  for (const char* text :
       {"\"\xff\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "\"\xc0\x80\"", "{\"\x80\":1}"}) {
    EXPECT_THAT(ParseJson(text, "f"), StatusIs(StatusCode::kDataLoss, HasSubstr("UTF-8")));
  }
}

TEST(ParseJson, LoneSurrogateEscapeIsDataLoss) {
  EXPECT_THAT(ParseJson(R"("\ud800")", "f"), StatusIs(StatusCode::kDataLoss, HasSubstr("f")));
}

TEST(ParseJson, NumberBeyondADoubleIsDataLoss) {
  EXPECT_THAT(ParseJson("1e999", "f"), StatusIs(StatusCode::kDataLoss, HasSubstr("f")));
}

TEST(ParseJson, RepeatedKeyIsDataLossAtAnyLevel) {
  EXPECT_THAT(ParseJson(R"({"a":1,"a":1})", "f"),
              StatusIs(StatusCode::kDataLoss, Eq("f: key \"a\" appears twice in one object")));
  EXPECT_THAT(ParseJson(R"([{"x":{"b":1,"\u0062":2}}])", "f"),
              StatusIs(StatusCode::kDataLoss, HasSubstr("key \"b\"")));
}

TEST(ParseJson, SameKeyInDifferentObjectsIsFine) {
  EXPECT_OK(ParseJson(R"({"a":{"a":1},"b":[{"a":1},{"a":2}]})", "f"));
}

TEST(ParseJson, DepthIsAllowedUpToTheLimitAndRefusedBeyond) {
  EXPECT_OK(ParseJson("[[[1]]]", "f", 3));
  EXPECT_THAT(ParseJson("[[[[1]]]]", "f", 3),
              StatusIs(StatusCode::kDataLoss, Eq("f: JSON nested 4 levels deep, at most 3")));
}

TEST(ParseJson, AMillionBracketsAreRefusedNotACrash) {
  const std::string deep(1000000, '[');
  EXPECT_THAT(ParseJson(deep, "f"), StatusIs(StatusCode::kDataLoss, HasSubstr("1000000 levels")));
}

TEST(ParseJson, BracketsInsideStringsAreNotDepth) {
  EXPECT_OK(ParseJson(R"(["[[[[\"[[[[", "]]]"])", "f", 1));
}

class JsonGetters : public ::testing::Test {
 protected:
  json object_ = json::parse(R"({"i": 5, "neg": -5, "big": 18446744073709551615, "d": 1.5, "s": "x",
                                 "b": true, "o": {"k": 1}, "l": [1, 2], "n": null})");
};

TEST_F(JsonGetters, ReturnTheValue) {
  EXPECT_EQ(*GetInt(object_, "i", "f"), 5);
  EXPECT_EQ(*GetInt(object_, "neg", "f"), -5);
  EXPECT_EQ(*GetDouble(object_, "d", "f"), 1.5);
  EXPECT_EQ(*GetDouble(object_, "i", "f"), 5.0);
  EXPECT_EQ(*GetString(object_, "s", "f"), "x");
  EXPECT_EQ(*GetBool(object_, "b", "f"), true);
  EXPECT_EQ(**GetObject(object_, "o", "f"), object_["o"]);
  EXPECT_EQ(**GetArray(object_, "l", "f"), object_["l"]);
}

TEST_F(JsonGetters, WrongTypeIsInvalidArgumentWithSourceFieldAndValue) {
  EXPECT_THAT(
      GetInt(object_, "d", "config.json"),
      StatusIs(StatusCode::kInvalidArgument, Eq("config.json: d is 1.5, must be an integer")));
  EXPECT_THAT(GetBool(object_, "i", "f"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("i is 5")));
  EXPECT_THAT(GetDouble(object_, "s", "f"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("s is \"x\"")));
  EXPECT_THAT(GetString(object_, "l", "f"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("l is an array of 2")));
  EXPECT_THAT(GetArray(object_, "o", "f"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("o is an object of 1")));
  EXPECT_THAT(GetObject(object_, "b", "f"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("b is true, must be an object")));
}

TEST_F(JsonGetters, IntegerBeyondInt64IsInvalidArgument) {
  EXPECT_THAT(GetInt(object_, "big", "f"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("18446744073709551615")));
}

TEST_F(JsonGetters, AbsentOrNullIsInvalidArgumentWhenRequired) {
  for (const char* field : {"none", "n"}) {
    const auto says = AllOf(HasSubstr("f: "), HasSubstr(field), HasSubstr("is absent or null"));
    EXPECT_THAT(GetInt(object_, field, "f"), StatusIs(StatusCode::kInvalidArgument, says));
    EXPECT_THAT(GetDouble(object_, field, "f"), StatusIs(StatusCode::kInvalidArgument, says));
    EXPECT_THAT(GetString(object_, field, "f"), StatusIs(StatusCode::kInvalidArgument, says));
    EXPECT_THAT(GetBool(object_, field, "f"), StatusIs(StatusCode::kInvalidArgument, says));
    EXPECT_THAT(GetObject(object_, field, "f"), StatusIs(StatusCode::kInvalidArgument, says));
    EXPECT_THAT(GetArray(object_, field, "f"), StatusIs(StatusCode::kInvalidArgument, says));
  }
}

TEST_F(JsonGetters, AbsentOrNullIsNothingWhenOptional) {
  for (const char* field : {"none", "n"}) {
    EXPECT_EQ(*FindInt(object_, field, "f"), std::nullopt);
    EXPECT_EQ(*FindDouble(object_, field, "f"), std::nullopt);
    EXPECT_EQ(*FindString(object_, field, "f"), std::nullopt);
    EXPECT_EQ(*FindBool(object_, field, "f"), std::nullopt);
    EXPECT_EQ(*FindObject(object_, field, "f"), nullptr);
    EXPECT_EQ(*FindArray(object_, field, "f"), nullptr);
  }
}

TEST_F(JsonGetters, OptionalOfAnotherTypeIsStillInvalidArgument) {
  EXPECT_THAT(FindInt(object_, "s", "f"),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("\"x\"")));
}

TEST_F(JsonGetters, RangeIsInclusive) {
  EXPECT_EQ(*GetIntIn(object_, "i", "f", {5, 5}), 5);
  EXPECT_THAT(GetIntIn(object_, "i", "f", {6, 9}),
              StatusIs(StatusCode::kInvalidArgument, Eq("f: i is 5, must be from 6 to 9")));
}

TEST_F(JsonGetters, ContainerThatIsNoObjectIsInvalidArgument) {
  EXPECT_THAT(
      GetInt(object_["l"], "x", "f"),
      StatusIs(StatusCode::kInvalidArgument, HasSubstr("an array of 2, must be an object")));
}

TEST(DescribeJson, CutsLongStringsWithoutBreakingUtf8) {
  std::string long_text;
  for (int i = 0; i < 100; ++i) long_text += "a\xe2\x82\xac";
  EXPECT_THAT(DescribeJson(json(long_text)), HasSubstr("... (400 bytes)"));
}

}  // namespace
}  // namespace tessera
