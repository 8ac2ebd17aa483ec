// The two ways a matrix is split over tensor-parallel ranks.
#pragma once

#include <cstdint>
#include <vector>

#include <absl/status/status.h>

#include "layers/context.h"
#include "layers/weights.h"

namespace tessera {

// y[t, w.rows] = x[t, w.cols] w^T and what `args` adds, on whichever kernel w's format has. The
// columns of x lie as w.places says.
absl::Status Multiply(const LayerContext& context, const Weight& w, LinearArgs args);

// The norm ahead of a column-parallel matrix, which writes its rows as that reads them.
struct InputNorm {
  Weight weight;  // empty: no norm
  ColumnCopies copies;
};

// Rows (outputs) are split: y[t, rows] = norm(residual) w^T + bias, this rank's outputs. With
// `gated`, w holds gate rows then up rows, and y[t, rows / 2] = silu(gate) * up.
struct ColumnParallelLinear {
  // One matrix; or, where they differ in format or input order, q, k and v, or gate and up: their
  // outputs lie side by side.
  std::vector<Weight> parts;
  Weight bias;
  bool gated = false;

  // How the norm ahead is to write its rows: in the order of each part, if any has one.
  ColumnCopies InputCopies() const;

  // `norm` has these copies.
  absl::Status Forward(const LayerContext& context, const Residual& residual, const InputNorm& norm,
                       void* y) const;
};

// Columns (inputs) are split: residual += sum over ranks of x[t, w.cols] w^T, the columns of x as
// w.places says. `next_norm` is the norm that follows, or empty; on a sharded stage the result is
// left in residual.normed.
struct RowParallelLinear {
  Weight w;

  absl::Status Add(const LayerContext& context, const void* x, const Residual& residual,
                   const InputNorm& next_norm) const;
};

}  // namespace tessera
