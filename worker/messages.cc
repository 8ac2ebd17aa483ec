#include "worker/messages.h"

#include <unistd.h>

#include <string>

#include <absl/time/clock.h>

#include "common/build_commit.h"
#include "common/dtype.h"
#include "common/quant_format.h"
#include "common/status_macros.h"
#include "common/version.h"

namespace tessera {
namespace {

// Granularity of uneven splits of feed-forward rows and vocabulary.
int64_t SplitUnit(Device device) { return device == Device::kCuda ? 16 : 8; }

v1::FinishReason ReasonOf(FinishKind kind) {
  switch (kind) {
    case FinishKind::kNone:
      return v1::FINISH_REASON_UNSPECIFIED;
    case FinishKind::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishKind::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishKind::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

}  // namespace

SequenceRequest RequestOf(const internal::Submit& submit) {
  const v1::SamplingOptions& from = submit.sampling();
  SequenceRequest request;
  request.id = submit.sequence();
  request.prompt.assign(submit.prompt().begin(), submit.prompt().end());
  request.max_tokens = submit.max_tokens();
  request.logprobs = submit.logprobs() >= 0;
  request.prompt_logprobs = submit.prompt_logprobs();
  request.stop_ids.assign(submit.stop_ids().begin(), submit.stop_ids().end());
  SamplingParams& p = request.params;
  p.temperature = from.temperature();
  p.top_p = from.top_p();
  p.min_p = from.min_p();
  p.top_k = from.top_k();
  p.repetition_penalty = from.repetition_penalty();
  p.presence_penalty = from.presence_penalty();
  p.frequency_penalty = from.frequency_penalty();
  p.logprobs = request.logprobs ? submit.logprobs() : 0;
  p.prompt_len = submit.prompt_size();
  p.seed_low = static_cast<uint32_t>(from.seed());
  p.seed_high = static_cast<uint32_t>(from.seed() >> 32);
  const bool neutral =
      p.repetition_penalty == 1.f && p.presence_penalty == 0.f && p.frequency_penalty == 0.f;
  p.penalties = neutral ? 0 : 1;
  return request;
}

void AddEvent(const SequenceUpdate& update, internal::TokenBatch& batch) {
  internal::SequenceEvent& event = *batch.add_events();
  event.set_sequence(update.id);
  event.set_finish_reason(ReasonOf(update.finish));
  event.set_scheduled_unix_us(update.scheduled_unix_us);
  event.set_produced_unix_us(absl::ToUnixMicros(absl::Now()));
  event.mutable_prompt_logprobs()->Assign(update.prompt_logprobs.begin(),
                                          update.prompt_logprobs.end());
  for (const SampledToken& sampled : update.tokens) {
    v1::GeneratedToken& token = *event.add_tokens();
    token.set_id(sampled.id);
    token.set_logprob(sampled.logprob);
    for (size_t i = 0; i < sampled.top_ids.size(); ++i) {
      v1::TokenLogprob& top = *token.add_top();
      top.set_id(sampled.top_ids[i]);
      top.set_logprob(sampled.top_logprobs[i]);
    }
  }
}

void AddError(uint64_t sequence, const absl::Status& error, internal::TokenBatch& batch) {
  internal::SequenceEvent& event = *batch.add_events();
  event.set_sequence(sequence);
  event.set_error_code(static_cast<int32_t>(error.code()));
  event.set_error_message(std::string(error.message()));
}

EngineLimits LimitsOf(const v1::ModelOptions& options) {
  return {.context = options.context(),
          .max_sequences = options.max_sequences(),
          .max_step_tokens = options.max_step_tokens(),
          .block_size = options.block_size()};
}

absl::StatusOr<LayoutInput> LayoutOf(const internal::LoadShard& load, int group_rank,
                                     const DeviceSpec& device) {
  const v1::ModelOptions& options = load.options();
  LayoutInput in;
  ASSIGN_OR_RETURN(in.config, LoadModelConfig(options.model_dir()));
  if (options.load_format() == "dummy" && !options.quant().empty()) {
    ASSIGN_OR_RETURN(in.config.quant, ParseQuantFormat(options.quant()));
  }
  const ParallelShape shape = {.tp = options.tp(), .pp = options.pp()};
  ASSIGN_OR_RETURN(in.shard, MakeShard(in.config, shape, group_rank, SplitUnit(device.device)));
  in.limits = LimitsOf(options);
  in.device = device;
  ASSIGN_OR_RETURN(in.dtype, ParseFloatDType(options.dtype()));
  in.kv_blocks = load.kv_blocks();
  return in;
}

internal::Register RegisterOf(int rank, int ranks, Device device, const DeviceFacts& facts) {
  internal::Register self;
  self.set_rank(rank);
  self.set_ranks(ranks);
  char host[256] = {};
  if (gethostname(host, sizeof(host) - 1) == 0) self.set_host(host);
  self.set_pid(getpid());
  self.set_device(facts.name);
  self.set_cuda(device == Device::kCuda);
  self.set_total_bytes(facts.total_bytes);
  self.set_free_bytes(facts.free_bytes);
  self.set_sm_count(facts.sm_count);
  self.set_compute_capability(facts.compute_capability);
  self.set_version(kVersion);
  self.set_commit(BuildCommit());
  self.set_driver_version(facts.driver_version);
  self.set_runtime_version(facts.runtime_version);
  return self;
}

}  // namespace tessera
