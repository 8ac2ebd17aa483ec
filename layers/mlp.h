// The gated feed-forward of one layer: down(silu(gate(x)) * up(x)).
#pragma once

#include <absl/status/status.h>

#include "layers/context.h"
#include "layers/linear.h"

namespace tessera {

struct Mlp {
  ColumnParallelLinear gate_up;
  RowParallelLinear down;

  // residual += mlp(norm(residual)). `activated` is scratch of [t, f] for this rank's f rows.
  absl::Status Forward(const LayerContext& context, const Residual& residual, const InputNorm& norm,
                       const InputNorm& next_norm, void* activated) const;
};

}  // namespace tessera
