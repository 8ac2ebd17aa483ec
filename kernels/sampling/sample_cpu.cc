#include <algorithm>
#include <functional>
#include <vector>

#include <absl/types/span.h>

#include "common/status_macros.h"
#include "kernels/runtime/cpu_pool.h"
#include "kernels/sampling/candidate_order.h"
#include "kernels/sampling/log_softmax_cpu.h"
#include "kernels/sampling/logits_row_cpu.h"
#include "kernels/sampling/sample.h"
#include "kernels/sampling/sample_check.h"
#include "kernels/sampling/sample_math.h"

namespace tessera {
namespace {

int32_t GreedyId(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// The mass of what top-k, top-p and min-p leave: each keeps a prefix, so the shortest one counts.
uint64_t KeptMass(const SamplingParams& p, CandidateOrder& order) {
  uint64_t kept = order.total();
  if (p.top_k > 0 && p.top_k < order.count()) kept = order.MassOfTop(p.top_k);
  uint64_t mass = kept;
  if (p.top_p < 1.f) mass = std::min(mass, order.Reach(TopPGoal(kept, p.top_p)).sum);
  if (p.min_p > 0.f) mass = std::min(mass, order.MassAtLeast(MinPWeight(p.min_p)));
  return mass;
}

int32_t ChooseId(const SamplingParams& p, int32_t draw_index, const std::vector<float>& logits) {
  const int32_t greedy = GreedyId(logits);
  const float best = logits[static_cast<size_t>(greedy)];
  if (IsGreedy(p) || best == kNoLogit) return greedy;
  CandidateOrder order(logits, best, p.temperature);
  return order.Reach(DrawTarget(p, draw_index, KeptMass(p, order)) + 1).id;
}

void Penalise(const SampleArgs& a, int64_t slot, std::vector<float>& logits) {
  const SamplingParams& p = a.params[slot];
  if (p.penalties == 0 || a.seen.table == nullptr || slot >= a.seen.slots) return;
  const uint16_t* seen = a.seen.table + slot * a.seen.vocab;
  const auto count = std::min(logits.size(), static_cast<size_t>(a.seen.vocab));
  for (size_t id = 0; id < count; ++id) logits[id] = PenalisedLogit(logits[id], seen[id], p);
}

// Writes the log-probability of `chosen` and of the `wanted` likeliest tokens of row i.
void WriteLogprobs(const SampleArgs& a, int64_t i, const std::vector<float>& logits,
                   int32_t wanted) {
  const LogSoftmax softmax = LogSoftmaxOf(logits);
  a.logprobs[i] = softmax.Of(logits[static_cast<size_t>(a.ids[i])]);
  const int64_t count = std::clamp<int64_t>(wanted, 0, std::min(kMaxTopLogprobs, a.logits.vocab));
  if (count == 0) return;
  std::vector<uint64_t> packed(logits.size());
  for (size_t id = 0; id < logits.size(); ++id)
    packed[id] = PackCandidate(logits[id], static_cast<int64_t>(id));
  std::partial_sort(packed.begin(), packed.begin() + count, packed.end(), std::greater<>());
  for (int64_t j = 0; j < count; ++j) {
    const int32_t id = IdOf(packed[static_cast<size_t>(j)]);
    a.top_ids[i * kMaxTopLogprobs + j] = id;
    a.top_logprobs[i * kMaxTopLogprobs + j] = softmax.Of(logits[static_cast<size_t>(id)]);
  }
}

void SampleRow(const SampleArgs& a, int64_t i) {
  if (a.any_logprobs) {
    a.logprobs[i] = 0.f;
    std::fill_n(a.top_ids + i * kMaxTopLogprobs, kMaxTopLogprobs, -1);
    std::fill_n(a.top_logprobs + i * kMaxTopLogprobs, kMaxTopLogprobs, 0.f);
  }
  const int32_t slot = a.seq_slot[i];
  a.ids[i] = -1;
  if (slot < 0 || a.draw_index[i] < 0) return;
  const SamplingParams& p = a.params[slot];
  const std::vector<float> raw = CleanRow(a.logits, i);
  if (a.all_greedy) {
    a.ids[i] = GreedyId(raw);
  } else {
    std::vector<float> logits = raw;
    Penalise(a, slot, logits);
    a.ids[i] = ChooseId(p, a.draw_index[i], logits);
  }
  if (a.any_logprobs) WriteLogprobs(a, i, raw, p.logprobs);
}

}  // namespace

absl::Status SampleCpu(const SampleArgs& args, const Stream& stream) {
  RETURN_IF_ERROR(CheckLogits(args.logits, "sample"));
  stream.pool->ParallelFor(args.logits.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) SampleRow(args, i);
  });
  return absl::OkStatus();
}

}  // namespace tessera
