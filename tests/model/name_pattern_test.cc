#include "model/name_pattern.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
const char kDown[] = "model.layers.18.mlp.down_proj";

struct Case {
  std::string pattern, name;
  bool at_start, within;
};

// Answers of Python's re.match and re.search.
TEST(NamePattern, AnswersAsPythonDoes) {
  const Case cases[] = {
      {"model.layers.18.mlp.down_proj", kDown, true, true},
      {"down_proj", kDown, false, true},
      {".*down_proj", kDown, true, true},
      {".*up_proj", kDown, false, false},
      {R"(.*\.18\..*down.*)", kDown, true, true},
      {R"(.*\.8\..*down.*)", kDown, false, false},
      {R"(model\.layers\.(17|18)\.mlp\.(gate|up|down)_proj$)", kDown, true, true},
      {R"(model\.layers\.(?:1[0-9])\.)", kDown, true, true},
      {R"(model\.layers\.[^1]\.)", kDown, false, false},
      {R"(.*layers\.\d+\.mlp)", kDown, true, true},
      {R"(^mlp)", kDown, false, false},
      {R"(proj$)", kDown, false, true},
      {"", kDown, true, true},
      {"(down|)_proj", kDown, false, true},
      {"model.layers.1?8", kDown, true, true},
      {"x*model", kDown, true, true},
      {"(ab)+c", "ababc", true, true},
      {"(ab)+c", "abac", false, false},
      {"(a|b)*$", "abba", true, true},
      {"a.*?c", "abc", true, true},
      {"[]a]+$", "a]a", true, true},
      {"[a-]b", "-b", true, true},
      {R"(\w+\.\w+$)", "lm.head_1", true, true},
  };
  for (const Case& c : cases) {
    ASSERT_OK_AND_ASSIGN(const NamePattern pattern, NamePattern::Parse(c.pattern));
    EXPECT_EQ(pattern.MatchesStart(c.name), c.at_start) << c.pattern << " " << c.name;
    EXPECT_EQ(pattern.MatchesWithin(c.name), c.within) << c.pattern << " " << c.name;
  }
}

TEST(NamePattern, WhatItDoesNotKnowIsNamed) {
  for (const std::string pattern : {"(?i)a", "(?=a)", "a{2}", "a**", "*a", "(a", "a)", "[a", "a\\",
                                    "\\bfoo", "\\1", "[[:alpha:]]", "(?P<x>a)"}) {
    EXPECT_THAT(NamePattern::Parse(pattern), StatusIs(kUnimplemented, HasSubstr("pattern")))
        << pattern;
  }
  EXPECT_THAT(NamePattern::Parse(std::string(513, 'a')),
              StatusIs(kUnimplemented, HasSubstr("513 bytes")));
  EXPECT_THAT(NamePattern::Parse(std::string(300, '(')),
              StatusIs(kUnimplemented, HasSubstr("too deep")));
}

// Backtracking matchers take longer than the universe for this one.
TEST(NamePattern, NestedRepetitionTakesNoExponentialTime) {
  std::string pattern;
  for (int i = 0; i < 15; ++i) pattern += "(a*";
  pattern += std::string(15, ')') + "*b";
  const absl::StatusOr<NamePattern> parsed = NamePattern::Parse(pattern);
  ASSERT_OK(parsed.status());
  EXPECT_FALSE(parsed->MatchesWithin(std::string(2000, 'a')));
}

TEST(NamePattern, PlainNamesAreToldFromPatterns) {
  EXPECT_FALSE(HasPatternSyntax("model.layers.0.mlp.down_proj"));
  EXPECT_TRUE(HasPatternSyntax(".*down_proj"));
  EXPECT_TRUE(HasPatternSyntax("layers\\.0"));
}

}  // namespace
}  // namespace tessera
