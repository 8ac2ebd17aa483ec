#include <algorithm>

#include "common/status_macros.h"
#include "kernels/gemm/repack.h"
#include "kernels/gemm/repack_math.h"
#include "kernels/runtime/cuda_status.h"

namespace tessera {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65535;
constexpr int64_t kLanes = 4;  // pieces of a block
constexpr int kWords = 4;      // of a piece

// A thread makes one piece (16 bytes) of one row: neighbours read neighbouring outputs of the same
// inputs and write rows apart, which costs sectors but runs far above the speed of any disk.
// Grid any, block kThreads.
__global__ void __launch_bounds__(kThreads) RepackKernel(RepackArgs a) {
  const int64_t block = PackedBlock(a.bits);
  const int64_t first = a.j_begin / block;
  const int64_t pieces = (CeilDiv(a.j_end, block) - first) * kLanes;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  const int steps_a_word = 8 / a.bits, fields = 32 / a.bits;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < pieces * a.outputs;
       i += step) {
    const int64_t c = i % a.outputs, piece = i / a.outputs;
    const int64_t row = PackedRow(a, c);
    if (row < 0) continue;
    const int64_t at = first + piece / kLanes, lane = piece % kLanes;
    uint32_t words[kWords];
    for (int w = 0; w < kWords; ++w) {
      uint32_t word = 0;
      for (int s = 0; s < steps_a_word; ++s) {
        for (int v = 0; v < 4; ++v) {
          const int64_t j =
              at * block + (w * steps_a_word + s) * kPackedStep + 2 * lane + v / 2 * 8 + v % 2;
          const int field = v / 2 + s * 2 + fields / 2 * (v % 2);
          word |= PackedValue(a, j, c) << (field * a.bits);
        }
      }
      words[w] = word;
    }
    auto* out = static_cast<char*>(a.values) + PackedRowAt(a.bits, a.k, row) +
                at * kPackedTileBytes + lane * 16;
    *reinterpret_cast<uint4*>(out) = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

}  // namespace

absl::Status RepackCuda(const RepackArgs& a, const Stream& stream) {
  RETURN_IF_ERROR(CheckRepack(a));
  if (a.outputs == 0 || a.j_begin == a.j_end) return absl::OkStatus();
  const int64_t pieces = CeilDiv(a.j_end - a.j_begin, PackedBlock(a.bits)) * kLanes;
  const int64_t blocks = std::min(CeilDiv(pieces * a.outputs, kThreads), kMaxBlocks);
  RepackKernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream.cuda>>>(a);
  return CudaStatus(cudaGetLastError(), "repack launch");
}

}  // namespace tessera
