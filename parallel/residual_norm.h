// The local end of AllReduceNorm, shared by the communicators.
#pragma once

#include <absl/status/status.h>

#include "kernels/ops.h"
#include "parallel/communicator.h"

namespace tessera {

// AllReduceNorm of a `partial` that already is the sum over ranks: the residual add, and the norm
// when there is a weight. Enqueues on `stream`; errors are those of the op used.
absl::Status AddResidualAndNorm(const AllReduceNormArgs& args, const Ops& ops,
                                const Stream& stream);

}  // namespace tessera
