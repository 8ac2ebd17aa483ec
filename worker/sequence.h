// One choice of one request, as the leader of a model's group sees it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/sampling/sample.h"

namespace tessera {

// Checked by the coordinator: prompt not empty, ids inside the vocabulary, prompt + max_tokens
// inside the context.
struct SequenceRequest {
  uint64_t id = 0;
  std::vector<int32_t> prompt;
  SamplingParams params;   // params.prompt_len is the prompt's size
  int64_t max_tokens = 0;  // >= 1
  bool logprobs = false;   // of chosen tokens, with params.logprobs candidates
  bool prompt_logprobs = false;
  std::vector<int32_t> stop_ids;
};

enum class FinishKind : uint8_t { kNone, kStop, kLength, kCancelled };

// A sampled token with its log-probabilities, when wanted.
struct SampledToken {
  int32_t id = 0;
  float logprob = 0.f;
  std::vector<int32_t> top_ids;  // highest first
  std::vector<float> top_logprobs;
};

// News of one sequence.
struct SequenceUpdate {
  uint64_t id = 0;
  std::vector<SampledToken> tokens;
  std::vector<float>
      prompt_logprobs;  // of prompt tokens 1, 2, ...; all at once, before the first token
  FinishKind finish = FinishKind::kNone;
  int64_t scheduled_unix_us = 0;  // set in the first update
};

// Scheduler's state of a sequence.
struct Sequence {
  SequenceRequest request;
  uint64_t age = 0;             // order of arrival: the older wins a conflict over blocks
  std::vector<int32_t> tokens;  // prompt and the sampled ids known so far
  int64_t computed = 0;         // positions given to steps since it last got its slot
  int64_t samples_issued = 0;   // sampled tokens known or under way
  int32_t slot = -1;            // -1: waiting
  int32_t lane = 0;
  bool slot_is_new = false;       // its SlotReset is still to be sent
  std::vector<int32_t> blocks;    // KV blocks, by index in the sequence
  int64_t planned_step = -1;      // newest step that has rows of it
  int64_t last_sample_step = -1;  // newest step that samples for it, and its place there
  int32_t last_sample_row = 0;
  int64_t prompt_targets_issued = 0;
  std::vector<float> prompt_logprobs;
  int64_t scheduled_unix_us = 0;
  bool first_update_sent = false;
  bool ended = false;  // finished or cancelled; steps under way are ignored

  int64_t prompt_len() const { return static_cast<int64_t>(request.prompt.size()); }
  int64_t known() const { return static_cast<int64_t>(tokens.size()); }
  int64_t samples_known() const { return known() - prompt_len(); }
  int64_t samples_under_way() const { return samples_issued - samples_known(); }
};

using SequencePtr = std::shared_ptr<Sequence>;

}  // namespace tessera
