#include "client/flags.h"

#include <cmath>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<FlagSpec>& Table() {
  static const auto* const table = new std::vector<FlagSpec>{
      {.name = "count",
       .kind = FlagKind::kInt,
       .value = "N",
       .help = "A count",
       .fallback = "7",
       .min = 1,
       .max = 9},
      {.name = "heat", .kind = FlagKind::kFloat, .low = 0},
      {.name = "share", .kind = FlagKind::kFloat, .low = 0, .high = 1, .low_open = true},
      {.name = "any", .kind = FlagKind::kFloat},
      {.name = "text"},
      {.name = "note", .kind = FlagKind::kText},
      {.name = "color", .choices = "red|green"},
      {.name = "on", .kind = FlagKind::kSwitch},
      {.name = "ids", .kind = FlagKind::kIntList},
      {.name = "seed", .kind = FlagKind::kUint},
      {.name = "memory", .kind = FlagKind::kBytes, .min = 1},
      {.name = "n", .kind = FlagKind::kInt},
  };
  return *table;
}

absl::StatusOr<Flags> Parse(std::vector<std::string> args) { return Flags::Parse(Table(), args); }

void ExpectRefused(std::vector<std::string> args, const std::string& flag,
                   const std::string& value) {
  EXPECT_THAT(Parse(std::move(args)), StatusIs(absl::StatusCode::kInvalidArgument,
                                               AllOf(HasSubstr(flag), HasSubstr(value))));
}

TEST(Flags, TakesBothSpellings) {
  ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({"--count", "3", "--heat=0.5"}));
  EXPECT_EQ(flags.Int("count"), 3);
  EXPECT_EQ(flags.Float("heat"), 0.5f);
}

TEST(Flags, OneLetterHasOneDash) {
  ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({"-n", "4"}));
  EXPECT_EQ(flags.Int("n"), 4);
}

TEST(Flags, AbsentFlagsHaveNoValue) {
  ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({}));
  EXPECT_EQ(flags.Int("count"), std::nullopt);
  EXPECT_EQ(flags.IntList("ids"), std::nullopt);
  EXPECT_FALSE(flags.Switch("on"));
  EXPECT_FALSE(flags.Given("text"));
}

TEST(Flags, LastOfRepeatedFlagsCounts) {
  ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({"--count", "no number", "--count", "5"}));
  EXPECT_EQ(flags.Int("count"), 5);
}

TEST(Flags, ValueMayLookLikeAFlag) {
  ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({"--any", "-1.5", "--text", "--on"}));
  EXPECT_EQ(flags.Float("any"), -1.5f);
  EXPECT_EQ(flags.String("text"), "--on");
  EXPECT_FALSE(flags.Switch("on"));
}

TEST(Flags, ValueMayHoldEqualsSigns) {
  ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({"--text=a=b"}));
  EXPECT_EQ(flags.String("text"), "a=b");
}

TEST(Flags, EmptyValueIsAValue) {
  ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({"--text=", "--ids", ""}));
  EXPECT_EQ(flags.String("text"), "");
  ASSERT_TRUE(flags.IntList("ids").has_value());
  EXPECT_TRUE(flags.IntList("ids")->empty());
}

TEST(Flags, ListsKeepOrderAndSign) {
  ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({"--ids", "3,-1, 2"}));
  EXPECT_THAT(*flags.IntList("ids"), ElementsAre(3, -1, 2));
}

TEST(Flags, SeedTakes64Bits) {
  ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({"--seed", "18446744073709551615"}));
  EXPECT_EQ(flags.Uint("seed"), UINT64_MAX);
}

TEST(Flags, BytesTakePowersOf1024) {
  for (const auto& [text, bytes] : {std::pair<std::string, int64_t>{"5", 5},
                                    {"2K", 2048},
                                    {"3m", 3 << 20},
                                    {"8G", int64_t{8} << 30},
                                    {"1TiB", int64_t{1} << 40}}) {
    SCOPED_TRACE(text);
    ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({"--memory", text}));
    EXPECT_EQ(flags.Int("memory"), bytes);
  }
}

TEST(Flags, PositionalsAreKeptApart) {
  ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({"speed", "--on", "-", "--", "--count"}));
  EXPECT_THAT(flags.positional(), ElementsAre("speed", "-", "--count"));
  EXPECT_TRUE(flags.Switch("on"));
}

TEST(Flags, UnknownFlagIsNamed) { ExpectRefused({"--cuont", "3"}, "--cuont", "unknown"); }
TEST(Flags, TwoDashesForOneLetterAreUnknown) { ExpectRefused({"--n", "3"}, "--n", "unknown"); }
TEST(Flags, MissingValueIsNamed) { ExpectRefused({"--count"}, "--count", "missing"); }
TEST(Flags, SwitchTakesNoValue) { ExpectRefused({"--on=1"}, "--on", "1"); }
TEST(Flags, IntegerOutOfRangeIsNamed) { ExpectRefused({"--count", "10"}, "--count", "10"); }
TEST(Flags, FractionIsNoInteger) { ExpectRefused({"--count", "1.5"}, "--count", "1.5"); }
TEST(Flags, HugeIntegerIsRefused) {
  ExpectRefused({"--n", "99999999999999999999"}, "--n", "unknown");
  ExpectRefused({"-n", "99999999999999999999"}, "-n", "99999999999999999999");
}
TEST(Flags, TextThatIsNotUtf8NamesTheByte) {
  ExpectRefused({"--note", "a\xff"}, "--note", "byte 1 of 2");
  EXPECT_EQ(Parse({"--note", "\u00e9"})->String("note"), "\u00e9");
}
TEST(Flags, BytesThatAreNotUtf8MayBeAString) {
  EXPECT_EQ(Parse({"--text", "a\xff"})->String("text"), "a\xff");
}
TEST(Flags, UnknownChoiceListsAll) { ExpectRefused({"--color", "blue"}, "blue", "red, green"); }
TEST(Flags, NegativeSeedIsRefused) { ExpectRefused({"--seed", "-1"}, "--seed", "-1"); }
TEST(Flags, HugeBytesAreRefused) { ExpectRefused({"--memory", "9999999999T"}, "--memory", "T"); }

TEST(Flags, FloatsMustBeFiniteAndInRange) {
  for (const char* text : {"nan", "inf", "-inf", "-0.1", "1e39", "1e999", "", "x", "1,5"}) {
    SCOPED_TRACE(text);
    ExpectRefused({"--heat", text}, "--heat", text);
  }
}

TEST(Flags, OpenBoundExcludesItselfAndWhatRoundsToIt) {
  ExpectRefused({"--share", "0"}, "--share", "0");
  ExpectRefused({"--share", "1e-60"}, "--share", "1e-60");
  ExpectRefused({"--share", "1.01"}, "--share", "1.01");
  ASSERT_OK_AND_ASSIGN(const Flags flags, Parse({"--share", "1"}));
  EXPECT_EQ(flags.Float("share"), 1.f);
}

TEST(Flags, ListItemsMustBe32BitIntegers) {
  for (const char* text : {"1,,2", "1,", "a", "2147483648", "1 2", "1.5"}) {
    SCOPED_TRACE(text);
    ExpectRefused({"--ids", text}, "--ids", text);
  }
}

TEST(DescribeFlags, ShowsNameValueHelpAndDefault) {
  EXPECT_THAT(DescribeFlags(Table()), AllOf(HasSubstr("--count N"), HasSubstr("A count [7]"),
                                            HasSubstr("-n"), HasSubstr("(red, green)")));
}

}  // namespace
}  // namespace tessera
