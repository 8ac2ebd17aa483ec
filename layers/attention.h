// Self-attention of one layer: q/k/v projection, rotary embedding, cache write, attention, output
// projection.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "layers/context.h"
#include "layers/linear.h"

namespace tessera {

// This rank's heads; the same for every layer.
struct AttentionShape {
  int64_t h = 0, g = 0, e = 0;  // query heads, kv heads, head size
  int64_t block_size = 0, blocks = 0;
  const float* inv_freq = nullptr;  // [e / 2] device
  float rope_scale = 1.f;
};

// Rows of one step, disjoint.
struct AttentionScratch {
  void* qkv = nullptr;  // [t, (h + 2g) * e]
  void* q = nullptr;    // [t, h * e]
  void* out = nullptr;  // [t, o's columns]
};

struct Attention {
  ColumnParallelLinear qkv;
  RowParallelLinear o;
  Weight q_norm, k_norm;    // empty: the family has none
  void* k_cache = nullptr;  // [blocks, g, block_size, e]
  void* v_cache = nullptr;
  // Of this rank's layers; its attention orders the memory accesses of a step (CacheReads in
  // kernels/attention/paged_attention.h).
  bool first = true;

  // residual += attention(norm(residual)); `next_norm` as in RowParallelLinear.
  absl::Status Forward(const LayerContext& context, const AttentionShape& shape,
                       const StepInputs& inputs, const AttentionScratch& scratch,
                       const Residual& residual, const InputNorm& norm,
                       const InputNorm& next_norm) const;
};

}  // namespace tessera
