// The two ways a matrix is split over tensor-parallel ranks.
#pragma once

#include <cstdint>
#include <vector>

#include <absl/status/status.h>

#include "layers/context.h"
#include "layers/weights.h"

namespace tessera {

// y[t, w.rows] = x[t, x_cols] w^T and what `args` adds, on whichever kernel w's format has; an
// input order of w is applied first, into `permuted`, [t, w.cols].
absl::Status Multiply(const LayerContext& context, const Weight& w, int64_t x_cols, void* permuted,
                      LinearArgs args);

// Rows (outputs) are split: y[t, rows] = norm(residual) w^T + bias, this rank's outputs. With
// `gated`, w holds gate rows then up rows, and y[t, rows / 2] = silu(gate) * up.
struct ColumnParallelLinear {
  // One matrix; or, where they differ in format or input order, q, k and v, or gate and up: their
  // outputs lie side by side.
  std::vector<Weight> parts;
  Weight bias;
  bool gated = false;

  absl::Status Forward(const LayerContext& context, const Residual& residual, const Weight& norm,
                       void* y) const;
};

// Columns (inputs) are split: residual += sum over ranks of x[t, x_cols] w^T. `next_norm` is the
// norm that follows, or empty; on a sharded stage the result is left in residual.normed.
struct RowParallelLinear {
  Weight w;
  int64_t x_cols = 0;

  absl::Status Add(const LayerContext& context, const void* x, const Residual& residual,
                   const Weight& next_norm) const;
};

}  // namespace tessera
