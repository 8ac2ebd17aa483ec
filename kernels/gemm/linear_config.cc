#include "kernels/gemm/linear_config.h"

namespace tessera {
namespace {

constexpr int64_t kAlign = 256;
// cuBLASLt's own scratch; with packed weights partial sums, or expanded rows of W.
constexpr int64_t kLibraryBytes = int64_t{72} << 20;
constexpr int64_t kHalfBytes = 2;

int64_t Align(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

}  // namespace

int64_t LinearWorkspaceBytes(Device device, int /*sm_count*/, int64_t max_t, int64_t n, int64_t k,
                             bool gated, bool normed) {
  if (device == Device::kCpu)
    return normed ? Align(max_t * k * static_cast<int64_t>(sizeof(float))) : 0;
  int64_t bytes = kLibraryBytes;
  if (normed) bytes += Align(max_t * k * kHalfBytes);
  if (gated) bytes += Align(max_t * 2 * n * kHalfBytes);
  return bytes;
}

}  // namespace tessera
