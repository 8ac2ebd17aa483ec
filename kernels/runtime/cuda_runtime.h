// The CUDA back end's runtime.
#pragma once

#include <memory>

#include <absl/status/statusor.h>

#include "kernels/runtime/runtime.h"

namespace tessera {

// Makes `device_index` current on the calling thread, which is the one that uses the runtime.
// kFailedPrecondition: no such device, no driver, or one too old for this build's CUDA; the message
// names both versions. kInternal: CUDA refused a call.
absl::StatusOr<std::unique_ptr<Runtime>> NewCudaRuntime(int device_index);

// The check of the driver alone, on the numbers that CUDA gives (13000 is 13.0; a `driver` of 0
// means none is installed). A driver runs programs of its own major version and of earlier ones.
absl::Status CheckDriver(int driver, int runtime);

}  // namespace tessera
