#include "model/jinja_shape.h"

#include <string>

#include <gtest/gtest.h>

namespace tessera {
namespace {

// The rules are those of Jinja's documentation ("Whitespace Control") with trim_blocks and
// lstrip_blocks; each pair was checked to render alike with jinja2 3.1.6.
TEST(JinjaShape, IsEqualForProgramsThatRenderAlike) {
  const std::string pairs[][2] = {
      {"a{{ 'b' }}c", "abc"},
      {"{{ 'a' + x + \"b\" }}", "a{{x}}b"},
      {"{{x['role']}}", "{{ x.role }}"},
      {"{%if x%}a{%endif%}", "{% if  x %}a{%  endif %}"},
      {"a  {%- if x %}\n b{%- endif -%}\n\n c", "a{% if x %} b{% endif %}c"},
      {"{% if x %}\na\n{% endif %}\nb", "{% if x %}a\n{% endif %}b"},
      {"a\n    {% if x %}b{% endif %}", "a\n{% if x %}b{% endif %}"},
      {"a{# comment #}b", "ab"},
      {"a\n{#- comment -#}\n b", "ab"},
      {"a\r\nb", "a\nb"},
      {"a\n", "a"},
      {"{{- 'x' -}}", "x"},
      {"{{ 'tab\\t' }}", "tab\t"},
      {"{{ '}}' }}", "}{{ '}' }}"},
  };
  for (const auto& [left, right] : pairs) {
    ASSERT_TRUE(JinjaShape(left).has_value()) << left;
    EXPECT_EQ(JinjaShape(left), JinjaShape(right)) << left << " and " << right;
  }
}

TEST(JinjaShape, DiffersForProgramsThatMayRenderDifferently) {
  const std::string pairs[][2] = {
      {"a b", "ab"},
      {"{{ x }}\n{{ y }}", "{{ x }}{{ y }}"},
      {"{{ 'a' if x else 'b' + 'c' }}", "{{ 'a' if x else 'b' }}c"},
      {"{{ x + y }}", "{{ x }}{{ y }}"},
      {"{{ x }}", "{{ 'x' }}"},
      {"{{ 'a' ~ x }}", "a{{ ~x }}"},
      {"{{ x['keys'] }}", "{{ x.keys }}"},
      {"a {% if x %}b{% endif %}", "a{% if x %}b{% endif %}"},
      {"{{ x }}  \n", "{{ x }}"},
      {"{% if x %}a{% endif %}", "{% if x %}{% endif %}a"},
      {"{{ a == 'b' + c }}", "{{ a == 'b' }}{{ c }}"},
      {"a\n\n", "a"},
      {"{{ 'a' +}}", "a"},
      {"{%+ if x %}a{% endif %}", "{% if x %}b{% endif %}"},
      {"{{ 'a' - 'b' + 'c' }}", "{{ 'a' - 'b' }}c"},
      {"{% set x = 'a\"b' %}", "{% set x = 'a' b %}"},
  };
  for (const auto& [left, right] : pairs) {
    EXPECT_NE(JinjaShape(left), JinjaShape(right)) << left << " and " << right;
  }
}

// The recognition of long programs compares hashes of shapes, so the form itself must not change.
TEST(JinjaShape, WritesTheDocumentedForm) {
  EXPECT_EQ(JinjaShape("{%- if m[0]['role']=='user' and not (a!=1) %}\n  {{- 'a\\n\"' + m.content "
                       "| trim + \"b\" }}"
                       "\n{%- elif x['k'][-1:] %} c\\\n{% endif -%}  {{ f(a, b='c') ~ d }}\n"),
            "%if m [ 0 ] . role == \"user\" and not ( a != 1 )%\n"
            "\"a\\n\\\"\"\n"
            "{m . content | trim}\n"
            "\"b\"\n"
            "%elif x [ \"k\" ] [ - 1 : ]%\n"
            "\" c\\\\\\n\"\n"
            "%endif%\n"
            "{f ( a , b = \"c\" ) ~ d}\n");
}

TEST(JinjaShape, PlusKeepsTheSpaceBeforeABlock) {
  EXPECT_NE(JinjaShape("a\n  {%+ if x %}{% endif %}"), JinjaShape("a\n  {% if x %}{% endif %}"));
}

TEST(JinjaShape, HasNoneForUnclosedTagsAndUnknownEscapes) {
  for (const char* text :
       {"{{ x", "{% if x", "{# c", "{{ 'x }}", "{{ '\\x41' }}", "{{", "{% '\\", "{{ x %}"}) {
    EXPECT_EQ(JinjaShape(text), std::nullopt) << text;
  }
}

TEST(JinjaShape, QuotingRoundTrips) {
  const std::string text = "a\\b\n\"c\"\\n";
  EXPECT_EQ(UnquoteShapeText(QuoteShapeText(text)), text);
  EXPECT_EQ(UnquoteShapeText("a\"b"), std::nullopt);
  EXPECT_EQ(UnquoteShapeText("a\\"), std::nullopt);
}

TEST(JinjaShape, AMegabyteOfAnyBracketTakesNoTime) {
  for (const char* unit : {"{", "{{", "{%", "{#", "'", "{{ '", "}}", "-", "{{x}}", "\n  "}) {
    std::string text;
    while (text.size() < 1000000) text += unit;
    JinjaShape(text);
  }
}

}  // namespace
}  // namespace tessera
