#include "kernels/sampling/sample_config.h"

#include "kernels/sampling/sample_workspace.h"

namespace tessera {

int64_t SampleWorkspaceBytes(Device device, int64_t max_rows, int64_t vocab) {
  if (device == Device::kCpu || max_rows <= 0 || vocab <= 0) return 0;
  return SampleWorkspace::Layout(max_rows, vocab).bytes;
}

}  // namespace tessera
