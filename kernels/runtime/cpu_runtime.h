// The CPU back end's runtime.
#pragma once

#include <memory>

#include "kernels/runtime/runtime.h"

namespace tessera {

// `threads` >= 1.
std::unique_ptr<Runtime> NewCpuRuntime(int threads);

}  // namespace tessera
