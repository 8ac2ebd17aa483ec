// The two ways a matrix is split over tensor-parallel ranks.
#pragma once

#include <absl/status/status.h>

#include "layers/context.h"
#include "layers/weights.h"

namespace tessera {

// Rows (outputs) are split: y[t, rows] = norm(residual) w^T + bias, this rank's outputs. With
// `gated`, w holds gate rows then up rows, and y[t, rows / 2] = silu(gate) * up.
struct ColumnParallelLinear {
  Weight w, bias;
  bool gated = false;

  absl::Status Forward(const LayerContext& context, const Residual& residual, const Weight& norm,
                       void* y) const;
};

// Columns (inputs) are split: residual += sum over ranks of x[t, cols] w^T. `next_norm` is the norm
// that follows, or empty; on a sharded stage the result is left in residual.normed.
struct RowParallelLinear {
  Weight w;

  absl::Status Add(const LayerContext& context, const void* x, const Residual& residual,
                   const Weight& next_norm) const;
};

}  // namespace tessera
