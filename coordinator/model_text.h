// Text of one model: its tokenizer and chat template, or the reason there is none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include "model/chat_template.h"
#include "model/tokenizer/tokenizer.h"

namespace tessera {

// Safe from several threads at once.
class ModelText {
 public:
  // A model without text; `missing` is what its methods return.
  explicit ModelText(const absl::Status& missing) : no_tokenizer_(missing), no_template_(missing) {}

  // Reads the tokenizer and the chat template of `dir`; either may be missing, and the model's own
  // template unusable. `template_name` names a built-in one, which must then be usable; empty: the
  // model's own is recognised.
  // kInvalidArgument: no such built-in template. kFailedPrecondition: the named one prints a token
  // that the tokenizer lacks (it is named), or there is no tokenizer. Otherwise as Tokenizer::Load,
  // but for kNotFound, and ChatTemplate::Load.
  static absl::StatusOr<ModelText> Load(const std::string& dir, absl::string_view template_name);

  // Null when there is none.
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }
  // kFailedPrecondition, naming the file that is missing, when there is no tokenizer.
  absl::Status CheckTokenizer() const { return no_tokenizer_; }
  // Name of the chat template in use; empty: none.
  std::string chat_template() const;

  // Token ids of `text`. kFailedPrecondition: no tokenizer. kInvalidArgument: not UTF-8.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, SpecialAffixes affixes) const;
  // Token ids of the rendered conversation, up to where the assistant answers. A control token
  // spelled out in a message's content is text, so that no message can end its own turn.
  // kFailedPrecondition: no tokenizer or no chat template (the message says why).
  // kInvalidArgument: a conversation that the template refuses.
  absl::StatusOr<std::vector<int32_t>> EncodeChat(absl::Span<const ChatMessage> messages) const;
  // kFailedPrecondition: no tokenizer.
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, DecodeSpecial special) const;

 private:
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<const ChatTemplate> template_;  // null: see no_template_
  absl::Status no_tokenizer_;                     // OK when there is one
  absl::Status no_template_;
};

}  // namespace tessera
