// How each known kind of chat template writes a conversation.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/types/span.h>

namespace tessera {

struct ChatMessage {
  std::string role;  // system, user, assistant; with qwen2.5 and qwen3 also tool
  std::string content;
};

// A stretch of the rendered text. Content is what a message's author wrote, which may hold
// anything, even the spelling of control tokens; all else is the template's.
struct ChatSegment {
  enum class Kind { kTemplate, kContent };
  std::string text;
  Kind kind;

  friend bool operator==(const ChatSegment&, const ChatSegment&) = default;
};

struct RenderOptions {
  bool add_generation_prompt = true;  // end with the beginning of the assistant's turn
  bool enable_thinking = true;        // qwen3: false closes the thinking part before it begins
  std::string today{};                // llama3.2: the date as "26 Jul 2024"; empty: today's, in UTC
};

struct ChatStyle {
  enum class Family { kChatMl, kQwen15, kQwen25, kQwen3, kLlama2, kLlama3, kLlama31, kLlama32 };
  Family family;
  std::optional<std::string> default_system;  // what a conversation without one begins with
  std::string bos, eos;                       // spellings; kChatMl begins with `bos`, often empty
};

// The special tokens that the style spells out for every conversation; a tokenizer that lacks one
// would take its spelling for text.
std::vector<std::string> ControlTokens(const ChatStyle& style);

// The conversation as one text; no segment is empty. kInvalidArgument: no messages, a role that the
// style does not know, or (llama2) roles that do not alternate.
absl::StatusOr<std::vector<ChatSegment>> RenderChat(const ChatStyle& style,
                                                    absl::Span<const ChatMessage> messages,
                                                    const RenderOptions& options);

}  // namespace tessera
