#include "model/name_pattern.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"
#include "model/json.h"

namespace tessera {
namespace {

constexpr size_t kMaxPatternBytes = 512;
constexpr int kMaxDepth = 16;
constexpr absl::string_view kMeaningful = "*+?()[]{}|^$\\";

}  // namespace

// Builds the program from the end of the text to its start would need a tree; instead every piece
// is built with open exits (Thompson's construction), patched when what follows is known.
class PatternParser {
 public:
  using Op = NamePattern::Op;
  using Bytes = NamePattern::Bytes;

  explicit PatternParser(absl::string_view text) : text_(text) {}

  absl::StatusOr<NamePattern> Parse() {
    ASSIGN_OR_RETURN(const Piece whole, Alternatives(0));
    if (at_ != text_.size()) return Refuse("an unmatched )");
    const int match = Add(Op::kMatch);
    Patch(whole, match);
    pattern_.start_ = whole.entry;
    return std::move(pattern_);
  }

 private:
  // A part of the program: where it begins, and the instructions whose `next` (or `also`, when
  // negative: -1 - index) is open.
  struct Piece {
    int entry = 0;
    std::vector<int> open;
  };

  absl::Status Refuse(absl::string_view what) const {
    return absl::UnimplementedError(absl::StrCat("pattern ",
                                                 DescribeJson(nlohmann::json(std::string(text_))),
                                                 " has ", what, ", which is not supported"));
  }

  int Add(Op op) {
    pattern_.program_.push_back({.op = op});
    return static_cast<int>(pattern_.program_.size()) - 1;
  }

  void Patch(const Piece& piece, int target) {
    for (const int open : piece.open) {
      if (open >= 0) {
        pattern_.program_[static_cast<size_t>(open)].next = target;
      } else {
        pattern_.program_[static_cast<size_t>(-1 - open)].also = target;
      }
    }
  }

  absl::StatusOr<Piece> Alternatives(int depth) {
    if (depth > kMaxDepth) return Refuse("groups nested too deep");
    ASSIGN_OR_RETURN(Piece all, Sequence(depth));
    while (at_ < text_.size() && text_[at_] == '|') {
      ++at_;
      ASSIGN_OR_RETURN(const Piece other, Sequence(depth));
      const int split = Add(Op::kSplit);
      pattern_.program_[static_cast<size_t>(split)].next = all.entry;
      pattern_.program_[static_cast<size_t>(split)].also = other.entry;
      all.entry = split;
      all.open.insert(all.open.end(), other.open.begin(), other.open.end());
    }
    return all;
  }

  // An empty sequence is a split whose two ways go the same way.
  absl::StatusOr<Piece> Sequence(int depth) {
    const int entry = Add(Op::kSplit);
    Piece all = {entry, {entry, -1 - entry}};
    while (at_ < text_.size() && text_[at_] != '|' && text_[at_] != ')') {
      ASSIGN_OR_RETURN(Piece atom, Atom(depth));
      RETURN_IF_ERROR(Repeat(atom));
      Patch(all, atom.entry);
      all.open = std::move(atom.open);
    }
    return all;
  }

  absl::Status Repeat(Piece& atom) {
    if (at_ == text_.size()) return absl::OkStatus();
    const char how = text_[at_];
    if (how == '{') return Refuse("{");
    if (how != '*' && how != '+' && how != '?') return absl::OkStatus();
    ++at_;
    if (at_ < text_.size() && (text_[at_] == '*' || text_[at_] == '+' || text_[at_] == '{'))
      return Refuse("a repeated repetition");
    if (at_ < text_.size() && text_[at_] == '?') ++at_;  // laziness changes no answer of yes or no
    const int split = Add(Op::kSplit);
    pattern_.program_[static_cast<size_t>(split)].next = atom.entry;
    if (how != '?') Patch(atom, split);
    if (how == '?') {
      atom.open.push_back(-1 - split);
    } else {
      atom.open = {-1 - split};
    }
    if (how != '+') atom.entry = split;
    return absl::OkStatus();
  }

  Piece OfBytes(const Bytes& bytes) {
    const int at = Add(Op::kByte);
    pattern_.program_[static_cast<size_t>(at)].bytes = bytes;
    return {at, {at}};
  }

  absl::StatusOr<Piece> Atom(int depth) {
    const char c = text_[at_++];
    switch (c) {
      case '(':
        return Group(depth);
      case '[':
        return Class();
      case '\\': {
        ASSIGN_OR_RETURN(const Bytes bytes, Escape());
        return OfBytes(bytes);
      }
      case '.':
        return OfBytes(Bytes().set());
      case '^':
      case '$': {
        const int at = Add(c == '^' ? Op::kBegin : Op::kEnd);
        return Piece{at, {at}};
      }
      case '*':
      case '+':
      case '?':
      case '{':
        return Refuse(absl::StrCat("a ", std::string(1, c), " with nothing before it"));
      default:
        return OfBytes(Bytes().set(static_cast<uint8_t>(c)));
    }
  }

  absl::StatusOr<Piece> Group(int depth) {
    if (at_ < text_.size() && text_[at_] == '?') {
      if (at_ + 1 >= text_.size() || text_[at_ + 1] != ':') return Refuse("(?");
      at_ += 2;
    }
    ASSIGN_OR_RETURN(Piece inside, Alternatives(depth + 1));
    if (at_ == text_.size()) return Refuse("an unmatched (");
    ++at_;
    return inside;
  }

  // The bytes of what follows a backslash.
  absl::StatusOr<Bytes> Escape() {
    if (at_ == text_.size()) return Refuse("a lone backslash");
    const auto c = static_cast<uint8_t>(text_[at_++]);
    Bytes bytes;
    if (c == 'd' || c == 'w') {
      for (int b = '0'; b <= '9'; ++b) bytes.set(static_cast<size_t>(b));
      for (int b = 0; b < 128 && c == 'w'; ++b) {
        if (std::isalpha(b) != 0 || b == '_') bytes.set(static_cast<size_t>(b));
      }
      return bytes;
    }
    if (std::isalnum(c) != 0 || c >= 128)
      return Refuse(absl::StrCat("\\", std::string(1, static_cast<char>(c))));
    return bytes.set(c);
  }

  absl::StatusOr<Piece> Class() {
    const bool inverted = at_ < text_.size() && text_[at_] == '^';
    if (inverted) ++at_;
    Bytes bytes;
    bool first = true;
    for (; at_ < text_.size() && (first || text_[at_] != ']'); first = false) {
      if (text_[at_] == '[') return Refuse("[ in a class");
      if (text_[at_] == '\\') {
        ++at_;
        ASSIGN_OR_RETURN(const Bytes more, Escape());
        bytes |= more;
        continue;
      }
      const auto low = static_cast<uint8_t>(text_[at_++]);
      uint8_t high = low;
      if (at_ + 1 < text_.size() && text_[at_] == '-' && text_[at_ + 1] != ']') {
        high = static_cast<uint8_t>(text_[at_ + 1]);
        at_ += 2;
        if (high == '\\' || high < low) return Refuse("that range in a class");
      }
      for (int b = low; b <= high; ++b) bytes.set(static_cast<size_t>(b));
    }
    if (at_ == text_.size()) return Refuse("an unmatched [");
    ++at_;
    return OfBytes(inverted ? ~bytes : bytes);
  }

  const absl::string_view text_;
  size_t at_ = 0;
  NamePattern pattern_;
};

absl::StatusOr<NamePattern> NamePattern::Parse(absl::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::UnimplementedError(absl::StrCat("a pattern of ", pattern.size(),
                                                 " bytes, supported are up to ", kMaxPatternBytes));
  }
  return PatternParser(pattern).Parse();
}

bool NamePattern::Run(absl::string_view name, bool anywhere) const {
  std::vector<int> now, next, pending;
  std::vector<size_t> seen(program_.size(), 0);  // 1 + the place in `name` it was last reached at
  bool matched = false;
  const auto reach = [&](int entry, size_t place, std::vector<int>& into) {
    pending.assign(1, entry);
    while (!pending.empty()) {
      const int at = pending.back();
      pending.pop_back();
      if (seen[static_cast<size_t>(at)] == place + 1) continue;
      seen[static_cast<size_t>(at)] = place + 1;
      const Instruction& i = program_[static_cast<size_t>(at)];
      if (i.op == Op::kMatch) matched = true;
      if (i.op == Op::kByte) into.push_back(at);
      if (i.op == Op::kSplit) pending.push_back(i.also);
      const bool open = i.op == Op::kSplit || (i.op == Op::kBegin && place == 0) ||
                        (i.op == Op::kEnd && place == name.size());
      if (open) pending.push_back(i.next);
    }
  };
  reach(start_, 0, now);
  for (size_t place = 0; place < name.size() && !matched; ++place) {
    next.clear();
    for (const int at : now) {
      const Instruction& i = program_[static_cast<size_t>(at)];
      if (i.bytes.test(static_cast<uint8_t>(name[place]))) reach(i.next, place + 1, next);
    }
    if (anywhere) reach(start_, place + 1, next);
    std::swap(now, next);
  }
  return matched;
}

bool HasPatternSyntax(absl::string_view text) {
  return text.find_first_of(kMeaningful) != absl::string_view::npos;
}

}  // namespace tessera
