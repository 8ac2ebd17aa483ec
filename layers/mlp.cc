#include "layers/mlp.h"

#include "common/status_macros.h"

namespace tessera {

absl::Status Mlp::Forward(const LayerContext& context, const Residual& residual,
                          const InputNorm& norm, const InputNorm& next_norm,
                          void* activated) const {
  RETURN_IF_ERROR(gate_up.Forward(context, residual, norm, activated));
  return down.Add(context, activated, residual, next_norm);
}

}  // namespace tessera
