// One row of a LogitsView on the device.
#pragma once

#include <cuda_runtime.h>

#include "kernels/sampling/sample.h"
#include "kernels/sampling/sample_math.h"

namespace tessera {

// Four ids at a time: the width of a shard is a multiple of 8, so a group never straddles two.
constexpr int kGroup = 4;

// What a row needs for its penalised logits.
struct PenaltyRow {
  const uint16_t* seen = nullptr;  // null: no penalties
  int64_t vocab = 0;               // of `seen`
  SamplingParams params;
};

// The sampling state of row `row`; `slot` is valid.
__device__ inline PenaltyRow PenaltiesOf(const SampleArgs& a, int64_t slot) {
  PenaltyRow p;
  p.params = a.params[slot];
  if (p.params.penalties != 0 && a.seen.table != nullptr && slot < a.seen.slots) {
    p.seen = a.seen.table + slot * a.seen.vocab;
    p.vocab = a.seen.vocab;
  }
  return p;
}

// Out of line: few tokens are penalised, and fp64 division inlined into unrolled loops overflows
// the instruction cache.
inline __device__ __noinline__ float PenaliseSeen(float logit, uint16_t seen, float repetition,
                                                  float presence, float frequency) {
  return PenalisedLogit(logit, seen,
                        {.repetition_penalty = repetition,
                         .presence_penalty = presence,
                         .frequency_penalty = frequency});
}

// A clean logit after the row's penalties.
__device__ __forceinline__ float Penalised(const PenaltyRow& p, float logit, int64_t id) {
  if (p.seen == nullptr || id >= p.vocab) return logit;
  const uint16_t seen = p.seen[id];
  if (seen == 0) return logit;
  return PenaliseSeen(logit, seen, p.params.repetition_penalty, p.params.presence_penalty,
                      p.params.frequency_penalty);
}

// Raw logits of ids [id, id + 4), id a multiple of 4. Ids from `vocab` on hold padding.
__device__ __forceinline__ float4 LoadGroup(const LogitsView& view, int64_t row, int64_t id) {
  const float* data = view.data + row * view.width;  // one shard: spare the division
  if (view.width < view.vocab) {
    // 32-bit division: ids and widths are below 2^31.
    const auto shard = static_cast<uint32_t>(id) / static_cast<uint32_t>(view.width);
    data += int64_t{shard} * (view.row_capacity - 1) * view.width;
  }
  return __ldg(reinterpret_cast<const float4*>(data + id));
}

}  // namespace tessera
