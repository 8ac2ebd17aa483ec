#include "coordinator/choice_text.h"

#include <utility>

#include "common/check.h"

namespace tessera {

ChoiceText::ChoiceText(const Tokenizer* tokenizer, const std::vector<std::string>& stop,
                       const std::vector<int32_t>& prompt) {
  TESSERA_CHECK(tokenizer != nullptr || stop.empty(), "stop strings without a tokenizer");
  if (tokenizer == nullptr) return;
  stream_.emplace(tokenizer, DecodeSpecial::kSkip);
  stream_->Prime(prompt);
  auto stops = StopStrings::Create(stop);
  TESSERA_CHECK(stops.ok(), stops.status().ToString());
  stop_ = *std::move(stops);
}

bool ChoiceText::Push(int32_t id, std::string& text) {
  if (!stream_.has_value()) return false;
  text += stop_->Feed(stream_->Feed(id));
  return stop_->matched() >= 0;
}

bool ChoiceText::Finish(std::string& text) {
  if (!stream_.has_value()) return false;
  text += stop_->FeedRest(stream_->Flush());
  text += stop_->Flush();
  return stop_->matched() >= 0;
}

}  // namespace tessera
