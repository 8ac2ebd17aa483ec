#include "worker/step_trace.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <absl/strings/str_format.h>

#include "common/align.h"
#include "common/status_macros.h"
#include "worker/step_plan.h"

namespace tessera {
namespace {

constexpr int kWarmUpSteps = 3;

class TracedCommunicator : public Communicator {
 public:
  TracedCommunicator(Communicator& inner, OpTrace& trace) : inner_(inner), trace_(trace) {}

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  absl::Status AllReduceSum(void* data, int64_t count, DType dtype, const Stream& stream) override {
    return trace_.Time("all-reduce", stream,
                       [&] { return inner_.AllReduceSum(data, count, dtype, stream); });
  }
  absl::Status AllReduceNorm(const AllReduceNormArgs& args, const Stream& stream) override {
    return trace_.Time("all-reduce, residual, norm", stream,
                       [&] { return inner_.AllReduceNorm(args, stream); });
  }
  absl::Status AllGather(const void* send, void* recv, int64_t bytes,
                         const Stream& stream) override {
    return trace_.Time("all-gather", stream,
                       [&] { return inner_.AllGather(send, recv, bytes, stream); });
  }
  absl::Status Send(const void* data, int64_t bytes, int peer, const Stream& stream) override {
    return inner_.Send(data, bytes, peer, stream);
  }
  absl::Status Recv(void* data, int64_t bytes, int peer, const Stream& stream) override {
    return inner_.Recv(data, bytes, peer, stream);
  }
  absl::Status Broadcast(void* data, int64_t bytes, int root, const Stream& stream) override {
    return inner_.Broadcast(data, bytes, root, stream);
  }
  void Abort() override { inner_.Abort(); }

 private:
  Communicator& inner_;
  OpTrace& trace_;
};

std::vector<uint8_t> DecodePlan(int64_t number, int64_t context, const EngineLimits& limits) {
  StepDraft draft;
  draft.number = number;
  PlannedSequence sequence = {.slot = 0, .sample = true};
  sequence.tokens = {0};
  sequence.first_position = static_cast<int32_t>(context - 1);
  draft.sequences.push_back(std::move(sequence));
  if (number == 0) {
    draft.slot_resets.push_back({.slot = 0});
  }
  // The table's row is filled a few blocks a step, as many as a plan may carry.
  const int64_t blocks = CeilDiv(context, limits.block_size);
  const int64_t per_step = limits.max_sequences;
  const int64_t begin = std::min(blocks, number * per_step);
  for (int64_t b = begin; b < std::min(blocks, begin + per_step); ++b)
    draft.block_patches.insert(draft.block_patches.end(),
                               {0, static_cast<int32_t>(b), static_cast<int32_t>(b)});
  std::vector<uint8_t> bytes;
  EncodePlan(draft, bytes);
  return bytes;
}

std::string Table(const std::vector<OpTime>& times, int64_t context) {
  double total = 0;
  for (const OpTime& t : times) total += t.us;
  std::string text = absl::StrFormat("one decode step, 1 row, context %d, no graph:\n", context);
  for (const OpTime& t : times) {
    absl::StrAppendFormat(&text, "  %-40s %5d calls %10.1f us %5.1f %%\n", t.label, t.calls, t.us,
                          100 * t.us / total);
  }
  absl::StrAppendFormat(&text, "  %-40s %5s       %10.1f us", "sum of ops", "", total);
  return text;
}

}  // namespace

std::unique_ptr<Communicator> NewTracedCommunicator(Communicator& inner, OpTrace& trace) {
  return std::make_unique<TracedCommunicator>(inner, trace);
}

absl::StatusOr<std::string> TraceDecodeStep(Engine& engine, OpTrace& trace,
                                            const LayoutInput& layout, int64_t context,
                                            bool leader) {
  const EngineLimits& limits = layout.limits;
  const int64_t held = layout.kv_blocks * limits.block_size;
  context = std::clamp<int64_t>(context, 1, std::min(limits.context, held));
  const int64_t fill = CeilDiv(CeilDiv(context, limits.block_size), limits.max_sequences);
  const int64_t steps = std::max<int64_t>(fill, kWarmUpSteps) + 1;
  std::vector<OpTime> times;
  for (int64_t number = 0; number < steps; ++number) {
    if (number == steps - 1) trace.Start();
    RETURN_IF_ERROR(engine.Execute(DecodePlan(number, context, limits)));
    RETURN_IF_ERROR(engine.Drain());
    if (leader) RETURN_IF_ERROR(engine.Collect().status());
  }
  ASSIGN_OR_RETURN(times, trace.Stop());
  return Table(times, context);
}

}  // namespace tessera
