#include <algorithm>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/embedding/embed.h"
#include "kernels/embedding/embed_check.h"

namespace tessera {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kVector = 8;  // 16 bytes of a 16-bit type
constexpr int64_t kMaxBlocks = 65535;

// 16 bytes of a row a thread, grid-strided; both 16-bit types are copied as they are.
// Grid any, block kThreads.
__global__ void EmbedKernel(EmbedArgs a) {
  LetNextStart();
  WaitForPrevious();
  const int64_t pieces = a.d / kVector, count = a.t * pieces;
  const auto* table = static_cast<const uint4*>(a.table);
  auto* y = static_cast<uint4*>(a.y);
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = int64_t{a.tokens[i / pieces]} - a.first_row;
    y[i] = row >= 0 && row < a.rows ? table[row * pieces + i % pieces] : make_uint4(0, 0, 0, 0);
  }
}

}  // namespace

absl::Status EmbedCuda(const EmbedArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckEmbed(a, Device::kCuda));
  if (a.t == 0 || a.d == 0) return absl::OkStatus();
  const int64_t blocks = std::min((a.t * a.d / kVector + kThreads - 1) / kThreads, kMaxBlocks);
  return LaunchDependent(
      "embed launch", EmbedKernel,
      {.grid = dim3(static_cast<unsigned>(blocks)), .block = dim3(kThreads), .stream = stream.cuda},
      a);
}

}  // namespace tessera
