// The two op tables behind OpsFor(). The CUDA one exists in builds with the CUDA back end only.
#pragma once

#include "kernels/ops.h"

namespace tessera {

extern const Ops kCpuOps;
extern const Ops kCudaOps;

}  // namespace tessera
