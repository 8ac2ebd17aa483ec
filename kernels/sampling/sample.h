// From logits to token ids and log-probabilities.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "kernels/runtime/stream.h"

namespace tessera {

inline constexpr int64_t kMaxTopLogprobs = 20;

// fp32 logits of `rows` rows over a vocabulary that may lie in shards, as an all-gather leaves it:
// the logit of (row, id) is data[((id / width) * row_capacity + row) * width + id % width].
// One shard: width >= vocab, the plain [rows, width] matrix. Ids >= vocab are padding, never
// chosen.
struct LogitsView {
  const float* data = nullptr;  // device, 16-byte aligned
  int64_t rows = 0;
  int64_t row_capacity = 0;  // rows of one shard's block, >= rows
  int64_t vocab = 0;
  int64_t width = 0;  // ids per shard, a multiple of 8
};

// One request's sampling, kept on the device per slot.
struct SamplingParams {
  float temperature = 0.f;         // 0: greedy, the lowest id among equals
  float top_p = 1.f;               // (0, 1]
  float min_p = 0.f;               // [0, 1]
  float repetition_penalty = 1.f;  // > 0
  float presence_penalty = 0.f;
  float frequency_penalty = 0.f;
  int32_t top_k = 0;  // 0: off
  int32_t logprobs =
      0;  // top candidates wanted, 0..kMaxTopLogprobs; the chosen token's is always given
  int32_t prompt_len = 0;  // tokens below this position are prompt, the others output (penalties)
  uint32_t seed_low = 0, seed_high = 0;
  int32_t penalties = 0;  // 1 when any penalty differs from its neutral value
};

// What penalties need of the tokens seen, per slot and id: bit 15 set if in the prompt, bits 0..14
// the times it was output (saturating).
struct SeenTokens {
  uint16_t* table = nullptr;  // [slots, vocab] device
  int64_t slots = 0, vocab = 0;
};

// Per row i: reads slot seq_slot[i]; skipped (ids[i] = -1, logprob 0) when that or draw_index[i] is
// negative. Order (as transformers): penalties, temperature, top-k, top-p, min-p, draw. Ties at the
// k-th logit are all kept; where top-p cuts through equal logits, the lower ids stay. Penalties:
// repetition divides a positive logit and multiplies a negative one of any token seen; frequency
// (per time) and presence (once) are subtracted for tokens of the output. A temperature that is not
// above 0 is greedy. The draw is a function of (seed, draw_index, the row's logits) alone, never of
// the batch, and CPU and CUDA choose the same id, bit for bit (sample_math.h).
// Log-probabilities are of the untouched logits: log softmax in fp32, top ones by logit, lower ids
// first among equals; -inf where the probability is 0.
struct SampleArgs {
  LogitsView logits;
  const int32_t* seq_slot = nullptr;    // [rows] device
  const int32_t* draw_index = nullptr;  // [rows] device: which output token of its request this is
  const SamplingParams* params = nullptr;  // [slots] device
  SeenTokens seen;                         // table may be null when no slot has penalties
  int32_t* ids = nullptr;                  // [rows] device out
  float* logprobs = nullptr;               // [rows] device out: of ids[i]
  int32_t* top_ids = nullptr;     // [rows, kMaxTopLogprobs] device out, -1 past the wanted count
  float* top_logprobs = nullptr;  // [rows, kMaxTopLogprobs] device out, 0 past the wanted count
  bool all_greedy = false;        // host's promise: every row has temperature 0 and no penalties
  bool any_logprobs = false;      // false: logprobs, top_ids and top_logprobs are not written
  void* workspace = nullptr;      // SampleWorkspaceBytes() (sample_config.h) or more
  int64_t workspace_bytes = 0;
};

// Enqueues on `stream`; never synchronises or allocates (the CPU allocates host scratch). NaN
// logits count as -inf; +inf ones share all the probability; a row with no logit above -inf gives
// id 0. kInvalidArgument: negative size, vocab above 2^20, row_capacity below rows, width not a
// positive multiple of 8, workspace too small (CUDA). kInternal: a launch was refused.
absl::Status SampleCpu(const SampleArgs& args, const Stream& stream);
absl::Status SampleCuda(const SampleArgs& args, const Stream& stream);

// out[i] = log softmax(logits row i)[targets[i]]; 0 where targets[i] is outside [0, vocab). For
// prompt logprobs. Logits and errors as in Sample.
struct TokenLogprobsArgs {
  LogitsView logits;
  const int32_t* targets = nullptr;  // [rows] device
  float* out = nullptr;              // [rows] device
};
absl::Status TokenLogprobsCpu(const TokenLogprobsArgs& args, const Stream& stream);
absl::Status TokenLogprobsCuda(const TokenLogprobsArgs& args, const Stream& stream);

// Records a step's input tokens in `seen` for the slots whose requests have penalties: token i of
// sequence token_seq[i], at positions[i], is prompt below params[slot].prompt_len, else output.
// A null table does nothing; a token whose sequence lies outside [0, s), or whose id or slot lies
// outside the table, is passed over.
// kInvalidArgument: negative size.
struct CountTokensArgs {
  const int32_t* token_ids = nullptr;      // [t] device; negative: skipped
  const int32_t* token_seq = nullptr;      // [t] device: index into seq_slot
  const int32_t* positions = nullptr;      // [t] device
  const int32_t* seq_slot = nullptr;       // [s] device
  const SamplingParams* params = nullptr;  // [slots] device
  SeenTokens seen;
  int64_t t = 0, s = 0;
};
absl::Status CountTokensCpu(const CountTokensArgs& args, const Stream& stream);
absl::Status CountTokensCuda(const CountTokensArgs& args, const Stream& stream);

}  // namespace tessera
