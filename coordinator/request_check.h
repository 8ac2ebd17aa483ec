// The one place where a Generate request is checked. What comes out is bounded and needs no further
// checks anywhere down the line.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "coordinator/model_files.h"
#include "proto/inference.pb.h"

namespace tessera {

inline constexpr int kMaxChoices = 16;
inline constexpr int kMaxLogprobs = 20;
inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMaxStopStringBytes = 256;
inline constexpr int kMaxStopIds = 64;
inline constexpr int kMaxNameBytes = 128;  // of request ids and model names
inline constexpr int kMaxChatMessages = 4096;

struct CheckedRequest {
  std::string request_id;
  std::vector<int32_t> prompt;  // 1..context - 1 ids, all inside the vocabulary
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  int32_t top_k = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;       // of choice 0; choice i has seed + i
  int32_t max_tokens = 1;  // prompt + max_tokens <= context
  int32_t choices = 1;
  int32_t logprobs = -1;  // candidates per token; -1: no logprobs
  bool prompt_logprobs = false;
  std::vector<int32_t> stop_ids;  // eos included unless ignored; sorted, unique
  std::vector<std::string> stop;
};

// What a request is checked against.
struct RequestLimits {
  const ModelFiles* files = nullptr;  // borrowed
  int64_t context = 0;
  uint64_t random_seed = 0;       // for a request without a seed
  absl::string_view fallback_id;  // for a request without an id
};

// Checks every field and fills in defaults; text is tokenized last, when all else is in order.
// kInvalidArgument: names the field, the value seen and the range. kFailedPrecondition: text, chat
// or stop strings, and the model has no tokenizer or chat template (the file is named).
absl::StatusOr<CheckedRequest> CheckRequest(const v1::GenerateRequest& request,
                                            const RequestLimits& limits);

// Whether `name` is 1..128 bytes of [A-Za-z0-9._-]. kInvalidArgument: it is not; `what` is the
// field's name in the message.
absl::Status CheckName(absl::string_view name, absl::string_view what);

// kInvalidArgument: an id outside [0, vocab); names `field`, index and value.
absl::Status CheckIds(absl::string_view field, const google::protobuf::RepeatedField<int32_t>& ids,
                      int64_t vocab);

// The messages of a conversation. kInvalidArgument: none, too many, an unknown role, or a user's
// message without content.
absl::StatusOr<std::vector<ChatMessage>> CheckChat(const v1::ChatMessages& chat);

}  // namespace tessera
