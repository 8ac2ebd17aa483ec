// Chat templates: how a conversation becomes the one text that a model was trained to continue.
//
// A checkpoint carries its template as a Jinja program. None is run: the program is compared with
// the known ones by its shape (jinja_shape.h), and what those write is written in C++
// (chat_render.h).
#pragma once

#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include "model/chat_render.h"

namespace tessera {

// The segments' texts joined: what transformers' apply_chat_template(tokenize=False) returns.
// Encode it without affixes: templates of models with a beginning-of-text token spell it out.
std::string JoinSegments(absl::Span<const ChatSegment> segments);

class ChatTemplate {
 public:
  // Every name that FromName and the --chat-template flag take.
  static std::vector<std::string> Names();

  // The template of the checkpoint in `dir`: chat_template.jinja, or else `chat_template` in
  // tokenizer_config.json (of several, the one called "default"). A non-empty `name` is taken
  // instead. Messages name the file. kFailedPrecondition: there is no template, or none that is
  // known (the message offers --chat-template with the names), or it prints a bos_token or
  // eos_token that tokenizer_config.json does not name. kInvalidArgument: an unknown `name`, or a
  // field or a file of the wrong kind or size. kDataLoss: broken JSON.
  static absl::StatusOr<ChatTemplate> Load(const std::string& dir, absl::string_view name = "");

  // The spellings of the tokens that templates print; empty when there is no such token.
  struct Tokens {
    std::string bos, eos;
  };

  // The template that renders as the Jinja program `text` does; `source` names it in messages.
  // kFailedPrecondition: none is known to, or it prints a token that is empty.
  static absl::StatusOr<ChatTemplate> FromText(absl::string_view text, const Tokens& tokens,
                                               absl::string_view source);

  // kInvalidArgument: not one of Names(). kFailedPrecondition: it prints a token that is empty.
  static absl::StatusOr<ChatTemplate> FromName(absl::string_view name, const Tokens& tokens);

  // As RenderChat; the same errors.
  absl::StatusOr<std::vector<ChatSegment>> Render(absl::Span<const ChatMessage> messages,
                                                  const RenderOptions& options) const;

  // One of Names().
  const std::string& name() const { return name_; }
  const ChatStyle& style() const { return style_; }

 private:
  ChatTemplate(std::string name, ChatStyle style);

  std::string name_;
  ChatStyle style_;
};

}  // namespace tessera
