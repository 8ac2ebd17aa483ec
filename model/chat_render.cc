#include "model/chat_render.h"

#include <utility>

#include <absl/status/status.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/string_view.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>

#include "common/status_macros.h"

namespace tessera {
namespace {

using Messages = absl::Span<const ChatMessage>;
using Family = ChatStyle::Family;

// Collects segments; neighbours of one kind become one.
class Writer {
 public:
  Writer& Control(absl::string_view text) { return Append(text, ChatSegment::Kind::kTemplate); }
  Writer& Content(absl::string_view text) { return Append(text, ChatSegment::Kind::kContent); }
  std::vector<ChatSegment> Take() { return std::move(segments_); }

 private:
  Writer& Append(absl::string_view text, ChatSegment::Kind kind) {
    if (text.empty()) return *this;
    if (segments_.empty() || segments_.back().kind != kind) segments_.push_back({"", kind});
    absl::StrAppend(&segments_.back().text, text);
    return *this;
  }
  std::vector<ChatSegment> segments_;
};

// Bytes of the white space character that `text` begins with, as Python's str.strip sees it; 0 if
// none.
size_t LeadingSpace(absl::string_view text) {
  if (text.empty()) return 0;
  const auto first = static_cast<unsigned char>(text[0]);
  if ((first >= 0x09 && first <= 0x0D) || (first >= 0x1C && first <= 0x20)) return 1;
  for (const absl::string_view space :
       {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005",
        "\u2006", "\u2007", "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f",
        "\u3000"}) {
    if (absl::StartsWith(text, space)) return space.size();
  }
  return 0;
}

absl::string_view Trim(absl::string_view text) {
  while (const size_t bytes = LeadingSpace(text)) text.remove_prefix(bytes);
  const auto trailing = [&text]() -> size_t {
    for (size_t bytes = 1; bytes <= 3 && bytes <= text.size(); ++bytes) {
      if (LeadingSpace(text.substr(text.size() - bytes)) == bytes) return bytes;
    }
    return 0;
  };
  while (const size_t bytes = trailing()) text.remove_suffix(bytes);
  return text;
}

absl::string_view TrimNewlines(absl::string_view text) {
  while (absl::StartsWith(text, "\n")) text.remove_prefix(1);
  while (absl::EndsWith(text, "\n")) text.remove_suffix(1);
  return text;
}
absl::string_view TrimLeadingNewlines(absl::string_view text) {
  while (absl::StartsWith(text, "\n")) text.remove_prefix(1);
  return text;
}

void WriteChatMlTurn(absl::string_view role, absl::string_view content, Writer* out) {
  out->Control("<|im_start|>").Control(role).Control("\n").Content(content).Control("<|im_end|>\n");
}

void WriteDefaultSystem(const ChatStyle& style, Messages messages, Writer* out) {
  if (!style.default_system || messages[0].role == "system") return;
  out->Control("<|im_start|>system\n").Control(*style.default_system).Control("<|im_end|>\n");
}

void WriteChatMl(const ChatStyle& style, Messages messages, const RenderOptions& options,
                 Writer* out) {
  out->Control(style.bos);
  WriteDefaultSystem(style, messages, out);
  for (const ChatMessage& message : messages) WriteChatMlTurn(message.role, message.content, out);
  if (options.add_generation_prompt) out->Control("<|im_start|>assistant\n");
}

// The last turn stays open when nothing is to follow it, and an assistant's is then continued.
void WriteQwen15(const ChatStyle& style, Messages messages, const RenderOptions& options,
                 Writer* out) {
  WriteDefaultSystem(style, messages, out);
  for (size_t i = 0; i < messages.size(); ++i) {
    out->Control("<|im_start|>").Control(messages[i].role).Control("\n");
    out->Content(messages[i].content);
    if (options.add_generation_prompt || i + 1 < messages.size()) out->Control("<|im_end|>\n");
  }
  if (options.add_generation_prompt && messages.back().role != "assistant") {
    out->Control("<|im_start|>assistant\n");
  }
}

// A run of tool messages is one turn of the user.
void WriteToolTurn(Messages messages, size_t i, Writer* out) {
  if (i == 0 || messages[i - 1].role != "tool") out->Control("<|im_start|>user");
  out->Control("\n<tool_response>\n").Content(messages[i].content).Control("\n</tool_response>");
  if (i + 1 == messages.size() || messages[i + 1].role != "tool") out->Control("<|im_end|>\n");
}

void WriteQwen25(const ChatStyle& style, Messages messages, const RenderOptions& options,
                 Writer* out) {
  WriteDefaultSystem(style, messages, out);
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "tool") {
      WriteToolTurn(messages, i, out);
    } else {
      WriteChatMlTurn(messages[i].role, messages[i].content, out);
    }
  }
  if (options.add_generation_prompt) out->Control("<|im_start|>assistant\n");
}

// Index of the last question: a user's message that is no wrapped tool response.
size_t LastQuery(Messages messages) {
  for (size_t i = messages.size(); i-- > 0;) {
    if (messages[i].role == "user" && !(absl::StartsWith(messages[i].content, "<tool_response>") &&
                                        absl::EndsWith(messages[i].content, "</tool_response>"))) {
      return i;
    }
  }
  return messages.size() - 1;
}

// Thinking is kept only in answers behind the last question.
void WriteQwen3Assistant(absl::string_view text, bool behind_query, bool last, Writer* out) {
  constexpr absl::string_view kBegin = "<think>";
  constexpr absl::string_view kEnd = "</think>";
  absl::string_view content = text;
  absl::string_view thinking;
  const size_t last_end = text.rfind(kEnd);
  if (last_end != absl::string_view::npos) {
    content = TrimLeadingNewlines(text.substr(last_end + kEnd.size()));
    thinking = text.substr(0, text.find(kEnd));
    const size_t begin = thinking.rfind(kBegin);
    if (begin != absl::string_view::npos) thinking = thinking.substr(begin + kBegin.size());
    thinking = TrimNewlines(thinking);
  }
  out->Control("<|im_start|>assistant\n");
  if (behind_query && (last || !thinking.empty())) {
    out->Control("<think>\n").Content(thinking).Control("\n</think>\n\n");
    content = TrimLeadingNewlines(content);
  }
  out->Content(content).Control("<|im_end|>\n");
}

void WriteQwen3(Messages messages, const RenderOptions& options, Writer* out) {
  const size_t last_query = LastQuery(messages);
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role == "tool") {
      WriteToolTurn(messages, i, out);
    } else if (message.role == "assistant") {
      WriteQwen3Assistant(message.content, i > last_query, i + 1 == messages.size(), out);
    } else {
      WriteChatMlTurn(message.role, message.content, out);
    }
  }
  if (!options.add_generation_prompt) return;
  out->Control("<|im_start|>assistant\n");
  if (!options.enable_thinking) out->Control("<think>\n\n</think>\n\n");
}

absl::Status WriteLlama2(const ChatStyle& style, Messages messages, Writer* out) {
  const bool has_system = messages[0].role == "system";
  const Messages turns = messages.subspan(has_system ? 1 : 0);
  for (size_t i = 0; i < turns.size(); ++i) {
    if (turns[i].role != (i % 2 == 0 ? "user" : "assistant")) {
      return absl::InvalidArgumentError(absl::StrCat(
          "message ", i + (has_system ? 1 : 0), " has role ", turns[i].role,
          ", but this chat template needs user and assistant in turn behind an optional system"));
    }
    if (i % 2 == 1) {
      out->Control(" ").Content(Trim(turns[i].content)).Control(" ").Control(style.eos);
      continue;
    }
    out->Control(style.bos).Control("[INST] ");
    if (i == 0 && has_system) {
      // The template trims the system block and the question as one text.
      out->Control("<<SYS>>\n").Content(messages[0].content).Control("\n<</SYS>>");
      const absl::string_view question = turns[0].content;
      const absl::string_view kept =
          question.substr(0, static_cast<size_t>(Trim(question).end() - question.begin()));
      if (!Trim(question).empty()) out->Control("\n\n").Content(kept);
    } else {
      out->Content(Trim(turns[i].content));
    }
    out->Control(" [/INST]");
  }
  return absl::OkStatus();
}

void WriteLlama3Header(absl::string_view role, Writer* out) {
  out->Control("<|start_header_id|>").Control(role).Control("<|end_header_id|>\n\n");
}

void WriteLlama3(const ChatStyle& style, Messages messages, const RenderOptions& options,
                 Writer* out) {
  out->Control(style.bos);
  if (style.family != Family::kLlama3) {
    std::string date = "26 Jul 2024";
    if (style.family == Family::kLlama32) {
      date = options.today.empty() ? absl::FormatTime("%d %b %Y", absl::Now(), absl::UTCTimeZone())
                                   : options.today;
    }
    WriteLlama3Header("system", out);
    out->Control(absl::StrCat("Cutting Knowledge Date: December 2023\nToday Date: ", date, "\n\n"));
    if (messages[0].role == "system") {
      out->Content(Trim(messages[0].content));
      messages.remove_prefix(1);
    }
    out->Control("<|eot_id|>");
  }
  for (const ChatMessage& message : messages) {
    WriteLlama3Header(message.role, out);
    out->Content(Trim(message.content)).Control("<|eot_id|>");
  }
  if (options.add_generation_prompt) WriteLlama3Header("assistant", out);
}

absl::Status CheckRoles(Family family, Messages messages) {
  if (messages.empty()) return absl::InvalidArgumentError("a chat needs at least one message");
  const bool tools = family == Family::kQwen25 || family == Family::kQwen3;
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role == "system" || role == "user" || role == "assistant" || (tools && role == "tool")) {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("message ", i, " has role \"", absl::string_view(role).substr(0, 60),
                     "\", must be system, user", tools ? ", assistant or tool" : " or assistant"));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> ControlTokens(const ChatStyle& style) {
  std::vector<std::string> tokens;
  for (const std::string* token : {&style.bos, &style.eos})
    if (!token->empty()) tokens.push_back(*token);
  switch (style.family) {
    case Family::kChatMl:
    case Family::kQwen15:
    case Family::kQwen25:
    case Family::kQwen3:
      tokens.insert(tokens.end(), {"<|im_start|>", "<|im_end|>"});
      break;
    case Family::kLlama3:
    case Family::kLlama31:
    case Family::kLlama32:
      tokens.insert(tokens.end(), {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"});
      break;
    case Family::kLlama2:  // [INST] is ordinary text
      break;
  }
  return tokens;
}

absl::StatusOr<std::vector<ChatSegment>> RenderChat(const ChatStyle& style, Messages messages,
                                                    const RenderOptions& options) {
  RETURN_IF_ERROR(CheckRoles(style.family, messages));
  Writer out;
  switch (style.family) {
    case Family::kChatMl:
      WriteChatMl(style, messages, options, &out);
      break;
    case Family::kQwen15:
      WriteQwen15(style, messages, options, &out);
      break;
    case Family::kQwen25:
      WriteQwen25(style, messages, options, &out);
      break;
    case Family::kQwen3:
      WriteQwen3(messages, options, &out);
      break;
    case Family::kLlama2:
      RETURN_IF_ERROR(WriteLlama2(style, messages, &out));
      break;
    case Family::kLlama3:
    case Family::kLlama31:
    case Family::kLlama32:
      WriteLlama3(style, messages, options, &out);
      break;
  }
  return out.Take();
}

}  // namespace tessera
