#include "coordinator/model_text.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"

namespace tessera {

namespace {

// kFailedPrecondition: `tokenizer` lacks a token that the template prints.
absl::Status CheckTokens(const ChatTemplate& chat, const Tokenizer& tokenizer,
                         const std::string& dir) {
  for (const std::string& token : ControlTokens(chat.style())) {
    const auto ids = tokenizer.Encode(token, {});
    if (ids.ok() && ids->size() == 1) continue;
    return absl::FailedPreconditionError(absl::StrCat("chat template ", chat.name(), " prints ",
                                                      token, ", which is no token of ", dir,
                                                      "/tokenizer.json"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelText> ModelText::Load(const std::string& dir, absl::string_view template_name) {
  ModelText text(absl::OkStatus());
  auto tokenizer = Tokenizer::Load(dir);
  if (absl::IsNotFound(tokenizer.status())) {
    const absl::Status missing = absl::FailedPreconditionError(
        absl::StrCat("the model has no tokenizer: ", dir, "/tokenizer.json is missing"));
    if (!template_name.empty()) return missing;
    return ModelText(missing);
  }
  if (!tokenizer.ok()) return tokenizer.status();
  text.tokenizer_ = *std::move(tokenizer);
  auto chat = ChatTemplate::Load(dir, template_name);
  absl::Status usable = chat.status();
  if (usable.ok()) usable = CheckTokens(*chat, *text.tokenizer_, dir);
  if (usable.ok()) {
    text.template_ = std::make_unique<const ChatTemplate>(*std::move(chat));
  } else if (absl::IsFailedPrecondition(usable) && template_name.empty()) {
    text.no_template_ = usable;  // what does not chat may still continue text
  } else {
    return usable;
  }
  return text;
}

std::string ModelText::chat_template() const {
  return template_ != nullptr ? template_->name() : "";
}

absl::StatusOr<std::vector<int32_t>> ModelText::Encode(absl::string_view text,
                                                       SpecialAffixes affixes) const {
  RETURN_IF_ERROR(no_tokenizer_);
  return tokenizer_->Encode(text, {.affixes = affixes});
}

absl::StatusOr<std::vector<int32_t>> ModelText::EncodeChat(
    absl::Span<const ChatMessage> messages) const {
  RETURN_IF_ERROR(no_tokenizer_);
  RETURN_IF_ERROR(no_template_);
  ASSIGN_OR_RETURN(const std::vector<ChatSegment> rendered, template_->Render(messages, {}));
  std::vector<TextSegment> segments;
  for (const ChatSegment& segment : rendered) {
    const bool own = segment.kind == ChatSegment::Kind::kTemplate;
    segments.push_back({segment.text, own ? SpecialText::kMatch : SpecialText::kPlain});
  }
  return tokenizer_->EncodeSegments(segments, SpecialAffixes::kNone);
}

absl::StatusOr<std::string> ModelText::Decode(absl::Span<const int32_t> ids,
                                              DecodeSpecial special) const {
  RETURN_IF_ERROR(no_tokenizer_);
  return tokenizer_->Decode(ids, special);
}

}  // namespace tessera
