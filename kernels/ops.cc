#include "kernels/ops.h"

#include "kernels/ops_tables.h"

namespace tessera {

absl::StatusOr<const Ops*> OpsFor(Device device) {
  if (device == Device::kCpu) return &kCpuOps;
#ifdef TESSERA_WITH_CUDA
  return &kCudaOps;
#else
  return absl::UnimplementedError("this build has no CUDA back end");
#endif
}

}  // namespace tessera
