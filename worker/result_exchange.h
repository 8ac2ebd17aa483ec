// Brings what the last pipeline stage sampled to every other stage, and to the leader's host
// memory.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "kernels/runtime/runtime.h"
#include "model/shard.h"
#include "parallel/communicator.h"
#include "planner/memory_layout.h"
#include "worker/arena.h"
#include "worker/step_plan.h"

namespace tessera {

// A step's results on the device. ids are per lane; the rest is overwritten by every step.
struct ResultBuffers {
  int32_t* ids = nullptr;         // [lanes, max_sequences]
  float* logprobs = nullptr;      // [max_sequences]; with top_ids and top_logprobs one run of bytes
  int32_t* top_ids = nullptr;     // [max_sequences, kMaxTopLogprobs]
  float* top_logprobs = nullptr;  // [max_sequences, kMaxTopLogprobs]
  float* prompt_logprobs = nullptr;  // [max_step_tokens]
  int64_t max_sequences = 0, max_step_tokens = 0;

  int32_t* ids_of(int32_t lane) const { return ids + lane * max_sequences; }
  int64_t logprob_bytes() const { return max_sequences * (1 + 2 * kMaxTopLogprobs) * 4; }
};
ResultBuffers ResultsIn(const Arena& arena, const EngineLimits& limits);

// Transfers between the stages of one tp rank. They go on the side stream, beside the hidden states
// of later steps, so that neither waits for the other.
class ResultExchange {
 public:
  // `group` holds tp * pp ranks in rank order; null when there is one stage. `runtime` outlives the
  // exchange.
  ResultExchange(const Shard& shard, const ResultBuffers& results, Communicator* group,
                 Runtime& runtime)
      : shard_(shard), results_(results), group_(group), runtime_(runtime) {}

  // Last stage: sends a step's results to the others; others: receive them. Steps in order on every
  // rank.
  absl::Status Transfer(const PlanHeader& header);

 private:
  absl::Status Move(void* data, int64_t bytes);

  Shard shard_;
  ResultBuffers results_;
  Communicator* group_;
  Runtime& runtime_;
};

}  // namespace tessera
