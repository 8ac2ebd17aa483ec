#include "worker/result_exchange.h"

#include "common/status_macros.h"

namespace tessera {

ResultBuffers ResultsIn(const Arena& arena, const EngineLimits& limits) {
  ResultBuffers r;
  r.max_sequences = limits.max_sequences;
  r.max_step_tokens = limits.max_step_tokens;
  r.ids = static_cast<int32_t*>(arena.Find("ids"));
  r.logprobs = static_cast<float*>(arena.Find("logprobs"));
  r.top_ids = reinterpret_cast<int32_t*>(r.logprobs + r.max_sequences);
  r.top_logprobs = reinterpret_cast<float*>(r.top_ids + r.max_sequences * kMaxTopLogprobs);
  r.prompt_logprobs = static_cast<float*>(arena.Find("prompt_logprobs"));
  return r;
}

absl::Status ResultExchange::Transfer(const PlanHeader& header) {
  if (group_ == nullptr) return absl::OkStatus();
  if (header.samples != 0) {
    RETURN_IF_ERROR(Move(results_.ids_of(header.lane), header.sequences * int64_t{4}));
    if (header.any_logprobs != 0) {
      const int64_t top_bytes = header.sequences * kMaxTopLogprobs * 4;
      RETURN_IF_ERROR(Move(results_.logprobs, header.sequences * int64_t{4}));
      RETURN_IF_ERROR(Move(results_.top_ids, top_bytes));
      RETURN_IF_ERROR(Move(results_.top_logprobs, top_bytes));
    }
  }
  if (header.targets > 0)
    RETURN_IF_ERROR(Move(results_.prompt_logprobs, header.targets * int64_t{4}));
  return absl::OkStatus();
}

absl::Status ResultExchange::Move(void* data, int64_t bytes) {
  const Stream& stream = runtime_.side_stream();
  const int64_t tp = shard_.shape.tp;
  const auto peer = [&](int64_t stage) { return static_cast<int>(stage * tp + shard_.tp_rank); };
  if (!shard_.last()) return group_->Recv(data, bytes, peer(shard_.shape.pp - 1), stream);
  for (int64_t stage = 0; stage < shard_.shape.pp - 1; ++stage)
    RETURN_IF_ERROR(group_->Send(data, bytes, peer(stage), stream));
  return absl::OkStatus();
}

}  // namespace tessera
