#include "model/tokenizer/stop_strings.h"

#include <random>

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::absl::StatusCode;
using ::tessera::testing::StatusIs;
using ::testing::HasSubstr;

StopStrings Make(const std::vector<std::string>& stops) {
  auto result = StopStrings::Create(stops);
  EXPECT_TRUE(result.ok()) << result.status();
  return *std::move(result);
}

TEST(StopStrings, WithoutStopsAllTextComesAtOnce) {
  StopStrings stop = Make({});
  EXPECT_EQ(stop.Feed("abc"), "abc");
  EXPECT_EQ(stop.Flush(), "");
  EXPECT_EQ(stop.matched(), -1);
  EXPECT_EQ(stop.tokens(), 1);
}

TEST(StopStrings, HoldsBackExactlyWhatMayBeginAStop) {
  StopStrings stop = Make({"END"});
  EXPECT_EQ(stop.Feed("xE"), "x");
  EXPECT_EQ(stop.Feed("N"), "");
  EXPECT_EQ(stop.Feed("N"), "ENN");
  EXPECT_EQ(stop.Feed("EEN"), "E");
  EXPECT_EQ(stop.Flush(), "EN");
}

TEST(StopStrings, CutsWhereTheMatchBegins) {
  StopStrings stop = Make({"END"});
  EXPECT_EQ(stop.Feed("abE"), "ab");
  EXPECT_EQ(stop.Feed("NDrest"), "");
  EXPECT_EQ(stop.matched(), 0);
  EXPECT_EQ(stop.Flush(), "");
}

TEST(StopStrings, CountsTokensUpToTheOneThatCompletesTheMatch) {
  StopStrings stop = Make({"bc"});
  stop.Feed("a");
  stop.Feed("");
  stop.Feed("b");
  stop.Feed("c");
  stop.Feed("surplus");
  EXPECT_EQ(stop.tokens(), 4);
}

TEST(StopStrings, RestOfTheTextIsNoToken) {
  StopStrings stop = Make({"ab"});
  EXPECT_EQ(stop.Feed("xa"), "x");
  EXPECT_EQ(stop.FeedRest("b"), "");
  EXPECT_EQ(stop.matched(), 0);
  EXPECT_EQ(stop.tokens(), 1);
}

TEST(StopStrings, MatchThatCompletesFirstWinsEvenIfItBeginsLater) {
  StopStrings stop = Make({"abcdef", "cd"});
  EXPECT_EQ(stop.Feed("xabcdef"), "xab");
  EXPECT_EQ(stop.matched(), 1);
}

TEST(StopStrings, LongestOfThoseThatCompleteTogetherWins) {
  StopStrings stop = Make({"c", "abc", "bc"});
  EXPECT_EQ(stop.Feed("xabc"), "x");
  EXPECT_EQ(stop.matched(), 1);
}

TEST(StopStrings, FindsAStopThatOverlapsItsOwnBeginning) {
  StopStrings stop = Make({"aaaaab"});
  EXPECT_EQ(stop.Feed("aaaaaaa"), "aa");
  EXPECT_EQ(stop.Feed("b"), "");
  EXPECT_EQ(stop.matched(), 0);
}

TEST(StopStrings, NeverCutsInsideACharacter) {
  StopStrings stop = Make({"\u00e9\u00e8"});
  EXPECT_EQ(stop.Feed("x\u00e9"), "x");
  EXPECT_EQ(stop.Feed("\u00ea"), "\u00e9\u00ea");
}

TEST(StopStrings, EmptyAndInvalidStopsAreInvalidArgument) {
  EXPECT_THAT(StopStrings::Create(std::vector<std::string>{"a", ""}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("stop string 1 is empty")));
  EXPECT_THAT(StopStrings::Create(std::vector<std::string>{"\xff"}),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("stop string 0 is not UTF-8")));
}

// Against a search of the whole text after every byte.
TEST(StopStrings, AgreesWithBruteForceForEverySplit) {
  std::mt19937 random(5);
  const auto text_of = [&random](size_t length) {
    std::string text;
    while (text.size() < length) text.push_back("abc"[random() % (random() % 2 + 2)]);
    return text;
  };
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::string> stops(random() % 4);
    for (std::string& s : stops) s = text_of(random() % 6 + 1);
    const std::string text = text_of(random() % 40);
    std::string expected = text;
    bool matched = false;
    for (size_t end = 1; end <= text.size() && !matched; ++end) {
      size_t longest = 0;
      for (const std::string& s : stops) {
        if (s.size() <= end && text.compare(end - s.size(), s.size(), s) == 0)
          longest = std::max(longest, s.size());
      }
      matched = longest > 0;
      if (matched) expected = text.substr(0, end - longest);
    }
    StopStrings stop = Make(stops);
    std::string shown;
    for (size_t i = 0; i < text.size();) {
      const size_t bytes = std::min<size_t>(random() % 5, text.size() - i);
      shown += stop.Feed(text.substr(i, bytes));
      i += bytes;
    }
    shown += stop.Flush();
    ASSERT_EQ(shown, expected);
    ASSERT_EQ(stop.matched() >= 0, matched);
  }
}

// A megabyte byte by byte against a stop of 100,000 bytes; a step that looked back would take
// hours.
TEST(StopStrings, TimeIsLinearWithLongOverlaps) {
  StopStrings stop = Make({std::string(100000, 'a') + "b", std::string(50000, 'a') + "c"});
  size_t shown = 0;
  for (int i = 0; i < 1000000; ++i) shown += stop.Feed("a").size();
  EXPECT_EQ(shown, 900000u);
  EXPECT_EQ(stop.Feed("b"), "");
  EXPECT_EQ(stop.matched(), 0);
}

}  // namespace
}  // namespace tessera
