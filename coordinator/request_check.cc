#include "coordinator/request_check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "model/tokenizer/stop_strings.h"

namespace tessera {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A field's range as text and as a test, so that the two stay together.
struct FloatRule {
  absl::string_view field;
  absl::string_view range;
  bool (*holds)(float);
};

constexpr FloatRule kTemperature = {"sampling.temperature", "[0, inf)",
                                    [](float x) { return x >= 0 && x < kInfinity; }};
constexpr FloatRule kTopP = {"sampling.top_p", "(0, 1]", [](float x) { return x > 0 && x <= 1; }};
constexpr FloatRule kMinP = {"sampling.min_p", "[0, 1]", [](float x) { return x >= 0 && x <= 1; }};
constexpr FloatRule kRepetition = {"sampling.repetition_penalty", "(0, inf)",
                                   [](float x) { return x > 0 && x < kInfinity; }};
constexpr FloatRule kPresence = {"sampling.presence_penalty", "(-inf, inf)",
                                 [](float x) { return std::isfinite(x); }};
constexpr FloatRule kFrequency = {"sampling.frequency_penalty", "(-inf, inf)",
                                  [](float x) { return std::isfinite(x); }};

absl::Status CheckFloat(const FloatRule& rule, float value) {
  if (rule.holds(value)) return absl::OkStatus();  // false for NaN
  return absl::InvalidArgumentError(
      absl::StrCat(rule.field, ": ", value, " is not in ", rule.range));
}

absl::Status CheckInt(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": ", value, " is not in [", low, ", ", high, "]"));
}

absl::Status CheckSampling(const v1::SamplingOptions& in, const GenerationConfig& defaults,
                           CheckedRequest& out) {
  const auto pick = [](bool has, float value, double fallback) {
    return has ? value : static_cast<float>(fallback);
  };
  out.temperature = pick(in.has_temperature(), in.temperature(), defaults.temperature);
  out.top_p = pick(in.has_top_p(), in.top_p(), defaults.top_p);
  out.min_p = pick(in.has_min_p(), in.min_p(), defaults.min_p);
  out.top_k = in.has_top_k() ? in.top_k() : static_cast<int32_t>(defaults.top_k);
  out.repetition_penalty =
      pick(in.has_repetition_penalty(), in.repetition_penalty(), defaults.repetition_penalty);
  out.presence_penalty = in.presence_penalty();
  out.frequency_penalty = in.frequency_penalty();
  RETURN_IF_ERROR(CheckFloat(kTemperature, out.temperature));
  RETURN_IF_ERROR(CheckFloat(kTopP, out.top_p));
  RETURN_IF_ERROR(CheckFloat(kMinP, out.min_p));
  RETURN_IF_ERROR(CheckInt("sampling.top_k", out.top_k, 0, std::numeric_limits<int32_t>::max()));
  RETURN_IF_ERROR(CheckFloat(kRepetition, out.repetition_penalty));
  RETURN_IF_ERROR(CheckFloat(kPresence, out.presence_penalty));
  return CheckFloat(kFrequency, out.frequency_penalty);
}

absl::Status CheckStops(const v1::GenerateRequest& request, const ModelFiles& files,
                        CheckedRequest& out) {
  if (request.stop_size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop: ", request.stop_size(), " strings; at most ", kMaxStopStrings));
  }
  for (int i = 0; i < request.stop_size(); ++i) {
    const size_t bytes = request.stop(i).size();
    if (bytes >= 1 && bytes <= kMaxStopStringBytes) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("stop[", i, "]: ", bytes, " bytes, not in [1, ", kMaxStopStringBytes, "]"));
  }
  if (request.stop_ids_size() > kMaxStopIds) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop_ids: ", request.stop_ids_size(), " ids; at most ", kMaxStopIds));
  }
  RETURN_IF_ERROR(CheckIds("stop_ids", request.stop_ids(), files.config.vocab));
  if (request.stop_size() > 0) RETURN_IF_ERROR(files.text.CheckTokenizer());
  out.stop.assign(request.stop().begin(), request.stop().end());
  RETURN_IF_ERROR(StopStrings::Create(out.stop).status());
  out.stop_ids.assign(request.stop_ids().begin(), request.stop_ids().end());
  if (!request.ignore_eos()) {
    for (const int64_t id : files.generation.eos_ids) {
      out.stop_ids.push_back(static_cast<int32_t>(id));  // inside the vocabulary
    }
  }
  std::sort(out.stop_ids.begin(), out.stop_ids.end());
  out.stop_ids.erase(std::unique(out.stop_ids.begin(), out.stop_ids.end()), out.stop_ids.end());
  return absl::OkStatus();
}

absl::Status CheckCounts(const v1::GenerateRequest& request, const ModelFiles& files,
                         CheckedRequest& out) {
  RETURN_IF_ERROR(CheckInt("choices", request.choices(), 0, kMaxChoices));
  out.choices = std::max(request.choices(), 1);
  RETURN_IF_ERROR(CheckInt("logprobs", request.logprobs(), 0, kMaxLogprobs));
  if (request.want_logprobs()) {
    out.logprobs = static_cast<int32_t>(std::min<int64_t>(request.logprobs(), files.config.vocab));
  }
  out.prompt_logprobs = request.want_prompt_logprobs();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> PromptIds(const v1::GenerateRequest& request,
                                               const ModelFiles& files) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      if (request.text().empty()) return absl::InvalidArgumentError("text: empty prompt");
      return files.text.Encode(request.text(), SpecialAffixes::kAdd);
    case v1::GenerateRequest::kChat: {
      ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, CheckChat(request.chat()));
      return files.text.EncodeChat(messages);
    }
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = request.token_ids().ids();
      RETURN_IF_ERROR(CheckIds("token_ids", ids, files.config.vocab));
      return std::vector<int32_t>(ids.begin(), ids.end());
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("prompt: none of text, chat and token_ids is set");
}

absl::Status CheckLengths(const v1::GenerateRequest& request, const RequestLimits& limits,
                          CheckedRequest& out) {
  const auto prompt = static_cast<int64_t>(out.prompt.size());
  if (prompt == 0) return absl::InvalidArgumentError("prompt: 0 tokens; at least 1");
  for (const int32_t id : out.prompt) {  // a tokenizer may know more ids than the model has rows
    if (id >= 0 && id < limits.files->config.vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat("prompt: the tokenizer gives id ", id,
                                                   ", the model's vocabulary is [0, ",
                                                   limits.files->config.vocab, ")"));
  }
  const int64_t room = limits.context - prompt;
  if (room < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt: ", prompt, " tokens leave no room in a ", "context of ", limits.context));
  }
  const int64_t wanted = request.has_max_tokens() ? request.max_tokens() : room;
  if (wanted > room) {
    return absl::InvalidArgumentError(absl::StrCat("max_tokens: ", wanted, " and a prompt of ",
                                                   prompt, " tokens exceed the context of ",
                                                   limits.context, " tokens"));
  }
  out.max_tokens =
      static_cast<int32_t>(std::min<int64_t>(wanted, std::numeric_limits<int32_t>::max()));
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckIds(absl::string_view field, const google::protobuf::RepeatedField<int32_t>& ids,
                      int64_t vocab) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(field, "[", i, "]: ", ids[i], " is not in the vocabulary [0, ", vocab, ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckName(absl::string_view name, absl::string_view what) {
  if (name.empty()) return absl::InvalidArgumentError(absl::StrCat(what, ": empty"));
  if (name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": ", name.size(), " bytes; at most ", kMaxNameBytes));
  }
  const bool fits = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, ": \"", absl::CHexEscape(name), "\" has other bytes than [A-Za-z0-9._-]"));
}

absl::StatusOr<std::vector<ChatMessage>> CheckChat(const v1::ChatMessages& chat) {
  if (chat.messages_size() == 0) return absl::InvalidArgumentError("chat.messages: empty prompt");
  if (chat.messages_size() > kMaxChatMessages) {
    return absl::InvalidArgumentError(absl::StrCat("chat.messages: ", chat.messages_size(),
                                                   " messages; at most ", kMaxChatMessages));
  }
  std::vector<ChatMessage> messages;
  for (int i = 0; i < chat.messages_size(); ++i) {
    const v1::ChatMessage& message = chat.messages(i);
    if (message.role() != "system" && message.role() != "user" && message.role() != "assistant") {
      return absl::InvalidArgumentError(absl::StrCat("chat.messages[", i, "].role: \"",
                                                     absl::CHexEscape(message.role().substr(0, 32)),
                                                     "\" is not system, user or assistant"));
    }
    if (message.role() == "user" && message.content().empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "chat.messages[", i, "].content: empty prompt; a user's has at least 1 byte"));
    }
    messages.push_back({message.role(), message.content()});
  }
  return messages;
}

absl::StatusOr<CheckedRequest> CheckRequest(const v1::GenerateRequest& request,
                                            const RequestLimits& limits) {
  CheckedRequest out;
  out.request_id = std::string(limits.fallback_id);
  if (!request.request_id().empty()) {
    RETURN_IF_ERROR(CheckName(request.request_id(), "request_id"));
    out.request_id = request.request_id();
  }
  if (request.has_max_tokens()) {
    RETURN_IF_ERROR(CheckInt("max_tokens", request.max_tokens(), 1, limits.context));
  }
  RETURN_IF_ERROR(CheckSampling(request.sampling(), limits.files->generation, out));
  RETURN_IF_ERROR(CheckCounts(request, *limits.files, out));
  RETURN_IF_ERROR(CheckStops(request, *limits.files, out));
  out.seed = request.sampling().has_seed() ? request.sampling().seed() : limits.random_seed;
  ASSIGN_OR_RETURN(out.prompt, PromptIds(request, *limits.files));
  RETURN_IF_ERROR(CheckLengths(request, limits, out));
  return out;
}

}  // namespace tessera
