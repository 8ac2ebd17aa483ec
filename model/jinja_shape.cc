#include "model/jinja_shape.h"

#include <utility>
#include <vector>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/strip.h>

namespace tessera {
namespace {

struct Token {
  enum class Kind { kWord, kString, kOperator };
  Kind kind;
  std::string text;  // of a string: its value
};
using Tokens = std::vector<Token>;

bool IsWordChar(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }
bool IsSpace(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }

// Reads the string literal at the front of `*text` and moves behind it.
std::optional<std::string> ReadString(absl::string_view* text) {
  const char quote = text->front();
  std::string value;
  for (size_t i = 1; i < text->size(); ++i) {
    const char c = (*text)[i];
    if (c == quote) {
      text->remove_prefix(i + 1);
      return value;
    }
    if (c != '\\') {
      value.push_back(c);
      continue;
    }
    if (++i == text->size()) break;
    constexpr absl::string_view kEscapes = "ntr\\'\"";
    constexpr absl::string_view kMeanings = "\n\t\r\\'\"";
    const size_t escape = kEscapes.find((*text)[i]);
    if (escape == absl::string_view::npos) return std::nullopt;
    value.push_back(kMeanings[escape]);
  }
  return std::nullopt;
}

// Reads tokens from the front of `*text` up to `end` ("%}" or "}}"), perhaps with a - before it (or
// a + before "%}"), and moves to there.
std::optional<Tokens> ReadTokens(absl::string_view end, absl::string_view* text) {
  Tokens tokens;
  while (!text->empty()) {
    const char c = text->front();
    const bool sign = c == '-' || (c == '+' && end != "}}");
    if (absl::StartsWith(sign ? text->substr(1) : *text, end)) return tokens;
    if (IsSpace(c)) {
      text->remove_prefix(1);
    } else if (c == '\'' || c == '"') {
      std::optional<std::string> value = ReadString(text);
      if (!value) return std::nullopt;
      tokens.push_back({Token::Kind::kString, *std::move(value)});
    } else if (IsWordChar(c)) {
      size_t length = 0;
      while (length < text->size() && IsWordChar((*text)[length])) ++length;
      tokens.push_back({Token::Kind::kWord, std::string(text->substr(0, length))});
      text->remove_prefix(length);
    } else {
      size_t length = 1;
      for (const absl::string_view two : {"==", "!=", "<=", ">=", "//", "**"}) {
        if (absl::StartsWith(*text, two)) length = 2;
      }
      tokens.push_back({Token::Kind::kOperator, std::string(text->substr(0, length))});
      text->remove_prefix(length);
    }
  }
  return std::nullopt;
}

bool Is(const Token& token, absl::string_view op) {
  return token.kind == Token::Kind::kOperator && token.text == op;
}

// The tokens in one spelling: ['role'] and ['content'] as .role and .content.
std::string Write(const Token* begin, const Token* end) {
  std::string out;
  for (const Token* t = begin; t != end; ++t) {
    const bool subscript = end - t >= 3 && t != begin && Is(t[0], "[") &&
                           t[1].kind == Token::Kind::kString && Is(t[2], "]") &&
                           (t[-1].kind == Token::Kind::kWord || Is(t[-1], "]")) &&
                           (t[1].text == "role" || t[1].text == "content");
    if (subscript) {
      absl::StrAppend(&out, " . ", t[1].text);
      t += 2;
    } else if (t->kind == Token::Kind::kString) {
      absl::StrAppend(&out, " \"", QuoteShapeText(t->text), "\"");
    } else {
      absl::StrAppend(&out, " ", t->text);
    }
  }
  return std::string(absl::StripPrefix(out, " "));
}

// The operands of an expression that is a sum with a string among them, which Jinja prints one
// behind the other; or the whole expression. Only names, attributes, filters, calls and strings may
// stand outside brackets, because anything else may bind less than + does.
std::vector<std::pair<const Token*, const Token*>> Operands(const Tokens& tokens) {
  const Token* const end = tokens.data() + tokens.size();
  std::vector<std::pair<const Token*, const Token*>> operands;
  bool has_string = false;
  int depth = 0;
  const Token* begin = tokens.data();
  for (const Token* t = begin; t != end; ++t) {
    if (Is(*t, "(") || Is(*t, "[") || Is(*t, "{")) ++depth;
    if (Is(*t, ")") || Is(*t, "]") || Is(*t, "}")) --depth;
    if (depth > 0 || Is(*t, ")") || Is(*t, "]")) continue;
    for (const absl::string_view word : {"if", "else", "and", "or", "not", "in", "is"}) {
      if (t->kind == Token::Kind::kWord && t->text == word) return {{tokens.data(), end}};
    }
    if (t->kind == Token::Kind::kOperator && !Is(*t, "+") && !Is(*t, ".") && !Is(*t, "|")) {
      return {{tokens.data(), end}};
    }
    if (Is(*t, "+")) {
      operands.emplace_back(begin, t);
      begin = t + 1;
    }
  }
  operands.emplace_back(begin, end);
  for (const auto& [from, to] : operands) {
    if (from == to) return {{tokens.data(), end}};
    has_string |= to - from == 1 && from->kind == Token::Kind::kString;
  }
  if (!has_string) return {{tokens.data(), end}};
  return operands;
}

class ShapeWriter {
 public:
  void Text(absl::string_view text) { absl::StrAppend(&text_, text); }
  void Statement(const Tokens& tokens) {
    EndText();
    absl::StrAppend(&out_, "%", Write(tokens.data(), tokens.data() + tokens.size()), "%\n");
  }
  void Expression(const Tokens& tokens) {
    for (const auto& [begin, end] : Operands(tokens)) {
      if (end - begin == 1 && begin->kind == Token::Kind::kString) {
        Text(begin->text);
      } else {
        EndText();
        absl::StrAppend(&out_, "{", Write(begin, end), "}\n");
      }
    }
  }
  std::string Take() {
    EndText();
    return std::move(out_);
  }

 private:
  void EndText() {
    if (!text_.empty()) absl::StrAppend(&out_, "\"", QuoteShapeText(text_), "\"\n");
    text_.clear();
  }
  std::string text_;  // not written yet
  std::string out_;
};

// Text before a tag, less what the tag's opening removes. `line_start`: it begins a line.
absl::string_view TrimBeforeTag(absl::string_view text, char kind, char sign, bool line_start) {
  if (sign == '-') return absl::StripTrailingAsciiWhitespace(text);
  if (sign == '+' || kind == '{') return text;
  const size_t newline = text.rfind('\n');
  if (newline == absl::string_view::npos && !line_start) return text;
  const size_t line = newline == absl::string_view::npos ? 0 : newline + 1;
  return absl::StripAsciiWhitespace(text.substr(line)).empty() ? text.substr(0, line) : text;
}

// Moves behind `end` and its sign, and what they remove of the text that follows.
bool SkipTagEnd(absl::string_view end, char kind, absl::string_view* text) {
  const bool minus = absl::ConsumePrefix(text, "-");
  const bool plus = !minus && absl::ConsumePrefix(text, "+");
  if (!absl::ConsumePrefix(text, end)) return false;
  if (minus) {
    *text = absl::StripLeadingAsciiWhitespace(*text);
  } else if (!plus && kind != '{') {
    absl::ConsumePrefix(text, "\n");
  }
  return true;
}

size_t FindTag(absl::string_view text) {
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    if (text[i] == '{' && (text[i + 1] == '{' || text[i + 1] == '%' || text[i + 1] == '#'))
      return i;
  }
  return absl::string_view::npos;
}

}  // namespace

std::optional<std::string> JinjaShape(absl::string_view source) {
  const std::string unix_lines = absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}});
  absl::string_view text = absl::StripSuffix(unix_lines, "\n");
  ShapeWriter shape;
  bool line_start = true;
  while (true) {
    const size_t tag = FindTag(text);
    if (tag == absl::string_view::npos) {
      shape.Text(text);
      return shape.Take();
    }
    const char kind = text[tag + 1];
    const char sign = tag + 2 < text.size() ? text[tag + 2] : '\0';
    shape.Text(TrimBeforeTag(text.substr(0, tag), kind, sign, line_start));
    text.remove_prefix(tag + 2 + (sign == '-' || sign == '+' ? 1 : 0));
    const absl::string_view end = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
    if (kind == '#') {
      const size_t close = text.find(end);
      if (close == absl::string_view::npos) return std::nullopt;
      text.remove_prefix(close > 0 && (text[close - 1] == '-' || text[close - 1] == '+') ? close - 1
                                                                                         : close);
    } else {
      const std::optional<Tokens> tokens = ReadTokens(end, &text);
      if (!tokens) return std::nullopt;
      kind == '{' ? shape.Expression(*tokens) : shape.Statement(*tokens);
    }
    const char* const before = text.data();
    if (!SkipTagEnd(end, kind, &text)) return std::nullopt;
    line_start = text.data() != before && text.data()[-1] == '\n';
  }
}

std::string QuoteShapeText(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\n", "\\n"}, {"\"", "\\\""}});
}

std::optional<std::string> UnquoteShapeText(absl::string_view quoted) {
  std::string text;
  for (size_t i = 0; i < quoted.size(); ++i) {
    if (quoted[i] == '"' || quoted[i] == '\n') return std::nullopt;
    if (quoted[i] != '\\') {
      text.push_back(quoted[i]);
      continue;
    }
    if (++i == quoted.size()) return std::nullopt;
    text.push_back(quoted[i] == 'n' ? '\n' : quoted[i]);
  }
  return text;
}

}  // namespace tessera
