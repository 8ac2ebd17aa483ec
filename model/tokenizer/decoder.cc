#include "model/tokenizer/decoder.h"

#include <optional>
#include <utility>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/strip.h>

#include "common/status_macros.h"
#include "model/json.h"
#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/component_json.h"
#include "model/tokenizer/utf8.h"

namespace tessera {
namespace {

// The byte of a token written <0xHH>.
std::optional<char> ByteOf(absl::string_view token) {
  const auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
  };
  if (token.size() != 6 || !absl::StartsWith(token, "<0x") || token[5] != '>') return std::nullopt;
  const int high = digit(token[3]);
  const int low = digit(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

// Cuts up to `*count` copies of `pattern` off the front; the first mismatch ends the cutting.
absl::string_view CutFront(absl::string_view text, absl::string_view pattern, int64_t* count) {
  while (*count > 0 && absl::ConsumePrefix(&text, pattern)) --*count;
  if (!text.empty()) *count = 0;
  return text;
}

}  // namespace

absl::StatusOr<Decoder> Decoder::Parse(const nlohmann::json& value, absl::string_view source) {
  Decoder decoder;
  if (value.is_null()) {
    decoder.steps_.push_back({.kind = Step::Kind::kJoin});
  } else {
    RETURN_IF_ERROR(decoder.Append(value, source));
  }
  return decoder;
}

absl::Status Decoder::Append(const nlohmann::json& value, absl::string_view source) {
  ASSIGN_OR_RETURN(const std::string type, GetString(value, "type", source));
  if (type == "Sequence") {
    return ForEachComponent(value, "decoders", source,
                            [this](const nlohmann::json& part, absl::string_view part_source) {
                              return Append(part, part_source);
                            });
  }
  if (type == "ByteLevel") return AppendStep({.kind = Step::Kind::kByteLevel}, type, source);
  if (type == "ByteFallback") return AppendStep({.kind = Step::Kind::kByteFallback}, type, source);
  if (type == "Fuse") return AppendStep({.kind = Step::Kind::kFuse}, type, source);
  if (type == "Replace") {
    Step step = {.kind = Step::Kind::kReplace};
    ASSIGN_OR_RETURN(step.pattern, GetStringPattern(value, source));
    ASSIGN_OR_RETURN(step.content, GetString(value, "content", source));
    return AppendStep(std::move(step), type, source);
  }
  if (type == "Metaspace") {
    Step step = {.kind = Step::Kind::kMetaspace};
    ASSIGN_OR_RETURN(step.pattern, GetCharacter(value, "replacement", source));
    ASSIGN_OR_RETURN(const auto scheme, FindString(value, "prepend_scheme", source));
    ASSIGN_OR_RETURN(const auto prefix, FindBool(value, "add_prefix_space", source));
    step.prefixed = scheme.value_or("always") != "never" && prefix.value_or(true);
    return AppendStep(std::move(step), type, source);
  }
  if (type == "Strip") {
    Step step = {.kind = Step::Kind::kStrip};
    ASSIGN_OR_RETURN(step.pattern, GetCharacter(value, "content", source));
    ASSIGN_OR_RETURN(step.start, GetIntIn(value, "start", source, {0, 1 << 20}));
    ASSIGN_OR_RETURN(const int64_t stop, GetIntIn(value, "stop", source, {0, 1 << 20}));
    if (stop != 0) {
      return absl::UnimplementedError(absl::StrCat(source, ": stop is ", stop, ", must be 0"));
    }
    return AppendStep(std::move(step), type, source);
  }
  return absl::UnimplementedError(absl::StrCat(
      source, ": type ", DescribeJson(type),
      ", known are ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip"));
}

absl::Status Decoder::AppendStep(Step step, absl::string_view type, absl::string_view source) {
  if (!steps_.empty()) {
    const Step& last = steps_.back();
    step.fused =
        last.fused || last.kind == Step::Kind::kFuse || last.kind == Step::Kind::kByteLevel;
  }
  if (step.fused && step.kind != Step::Kind::kStrip && step.kind != Step::Kind::kFuse) {
    return absl::UnimplementedError(absl::StrCat(source, ": ", type, " behind Fuse or ByteLevel"));
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

Decoder::State Decoder::Start() const {
  State state;
  for (const Step& step : steps_) state.steps.push_back({.count = step.start});
  return state;
}

void Decoder::Push(State* state, absl::string_view token, std::string* out) const {
  PushAt(0, state, token, out);
}

void Decoder::PushAt(size_t index, State* state, absl::string_view token, std::string* out) const {
  if (index == steps_.size()) {
    absl::StrAppend(out, token);
    return;
  }
  const Step& step = steps_[index];
  State::Step& memory = state->steps[index];
  switch (step.kind) {
    case Step::Kind::kJoin:
      PushAt(index + 1, state, absl::StrCat(memory.count++ > 0 ? " " : "", token), out);
      return;
    case Step::Kind::kByteLevel: {
      const std::optional<std::string> bytes = FromByteLevel(token);
      absl::StrAppend(&memory.pending, bytes ? absl::string_view(*bytes) : token);
      std::string text;
      MoveUtf8(&memory.pending, Utf8Tail::kHold, &text);
      PushAt(index + 1, state, text, out);
      return;
    }
    case Step::Kind::kByteFallback:
      if (const std::optional<char> byte = ByteOf(token)) {
        memory.pending.push_back(*byte);
        return;
      }
      EndRun(index, state, out);
      PushAt(index + 1, state, token, out);
      return;
    case Step::Kind::kFuse:
      PushAt(index + 1, state, token, out);
      return;
    case Step::Kind::kMetaspace: {
      const bool drop = memory.count++ == 0 && step.prefixed;
      PushAt(index + 1, state, absl::StrReplaceAll(token, {{step.pattern, drop ? "" : " "}}), out);
      return;
    }
    case Step::Kind::kReplace:
      PushAt(index + 1, state, absl::StrReplaceAll(token, {{step.pattern, step.content}}), out);
      return;
    case Step::Kind::kStrip: {
      int64_t per_token = step.start;
      int64_t* count = step.fused ? &memory.count : &per_token;
      PushAt(index + 1, state, CutFront(token, step.pattern, count), out);
      return;
    }
  }
}

void Decoder::EndRun(size_t index, State* state, std::string* out) const {
  std::string run;
  std::swap(run, state->steps[index].pending);
  if (run.empty()) return;
  if (ValidUtf8Prefix(run) == run.size()) {
    PushAt(index + 1, state, run, out);
  } else {
    for (size_t i = 0; i < run.size(); ++i) PushAt(index + 1, state, kReplacementCharacter, out);
  }
}

void Decoder::Flush(State* state, std::string* out) const {
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (steps_[i].kind == Step::Kind::kByteFallback) EndRun(i, state, out);
    if (steps_[i].kind == Step::Kind::kByteLevel) {
      std::string text;
      MoveUtf8(&state->steps[i].pending, Utf8Tail::kReplace, &text);
      PushAt(i + 1, state, text, out);
    }
  }
}

void Decoder::DropPending(State* state) const {
  for (State::Step& step : state->steps) {
    std::string dropped;
    MoveUtf8(&step.pending, Utf8Tail::kHold, &dropped);
  }
}

std::string Decoder::Bytes(absl::string_view token) const {
  std::string text(token);
  for (const Step& step : steps_) {
    if (step.kind == Step::Kind::kReplace) {
      text = absl::StrReplaceAll(text, {{step.pattern, step.content}});
    } else if (step.kind == Step::Kind::kMetaspace) {
      text = absl::StrReplaceAll(text, {{step.pattern, " "}});
    } else if (step.kind == Step::Kind::kByteLevel) {
      text = FromByteLevel(text).value_or(text);
    } else if (step.kind == Step::Kind::kByteFallback) {
      if (const std::optional<char> byte = ByteOf(text)) text.assign(1, *byte);
    } else if (step.kind == Step::Kind::kStrip && !step.fused) {
      int64_t count = step.start;
      text = std::string(CutFront(text, step.pattern, &count));
    }
  }
  return text;
}

}  // namespace tessera
