#include <algorithm>
#include <cstdint>

#include "common/align.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/gemm/packed_expand.h"
#include "kernels/gemm/packed_gemm_unpack.cuh"

namespace tessera {
namespace {

constexpr int kThreads = 256, kRows = kThreads / kWarp;
constexpr int kColumns = 8;              // of k: what a lane writes at a time, 16 bytes
constexpr int kSpan = kWarp * kColumns;  // of k: what a warp does
constexpr int64_t kSpansABlock = 4;

__device__ __forceinline__ int64_t GroupOf(const PackedWeight& w, int64_t step) {
  if (w.group_of_step != nullptr) return w.group_of_step[step];
  return step * kPackedStep / w.group;
}

template <int kBits>
__device__ __forceinline__ uint32_t ZeroOf(const PackedWeight& w, int64_t group, int64_t row) {
  if (w.zeros == nullptr) return 1u << (kBits - 1);
  const auto* zeros = static_cast<const uint8_t*>(w.zeros) + group * PackedZeroStride(kBits, w.n);
  if constexpr (kBits == 8) return zeros[row];
  return zeros[row / 2] >> (row % 2 * 4) & 15u;
}

// A warp has a row and kSpansABlock spans of kSpan columns. A lane takes half a step of 16 k: one
// pair of values from the same word of each of a block's four pieces. Grid (ceil(rows / kRows),
// ceil(k / (kSpan kSpansABlock))), block kThreads.
template <typename T, int kBits>
__global__ void PackedExpandKernel(PackedWeight w, PackedRowRuns rows, T* out) {
  LetNextStart();
  WaitForPrevious();
  const int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.x / kWarp;
  if (row >= rows.count()) return;
  const int64_t row_of_w = rows.first + row / rows.rows * rows.apart + row % rows.rows;
  const auto* const values =
      static_cast<const uint8_t*>(w.values) + PackedRowAt(kBits, w.k, row_of_w);
  int64_t k = int64_t{blockIdx.y} * (kSpan * kSpansABlock) + threadIdx.x % kWarp * kColumns;
  const int64_t end = min(w.k, k + kSpan * kSpansABlock);
#pragma unroll
  for (int span = 0; span < kSpansABlock; ++span, k += kSpan) {
    if (k >= end) return;
    const int64_t group = GroupOf(w, k / kPackedStep);
    RowUnpacker<T, kBits> unpacker;
    unpacker.Set(static_cast<const uint16_t*>(w.scales)[group * w.n + row_of_w],
                 ZeroOf<kBits>(w, group, row_of_w));
    const PackedPlace place = PackedPlaceOf(kBits, k);
    const uint8_t* const word = values + place.byte / 4 * 4;
    const int shift = static_cast<int>(place.byte % 4 * 8) + place.shift;
    uint32_t pairs[4];
    for (int piece = 0; piece < 4; ++piece)
      pairs[piece] = unpacker.template Weights<0>(
          __ldg(reinterpret_cast<const uint32_t*>(word + piece * 16)) >> shift);
    *reinterpret_cast<uint4*>(out + row * w.k + k) =
        make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
}

}  // namespace

absl::Status LaunchPackedExpand(const PackedWeight& w, const PackedRowRuns& rows, void* out,
                                DType dtype, cudaStream_t stream) {
  if (rows.count() == 0 || w.k == 0) return absl::OkStatus();
  const auto blocks = [](int64_t count, int64_t each) {
    return static_cast<unsigned>(CeilDiv(count, each));
  };
  const LaunchShape shape{dim3(blocks(rows.count(), kRows), blocks(w.k, kSpan * kSpansABlock)),
                          dim3(kThreads), 0, stream};
  return VisitHalf(dtype, "packed_expand", [&]<typename T>(TypeTag<T>) {
    return LaunchDependent("packed_expand launch",
                           w.bits == 4 ? PackedExpandKernel<T, 4> : PackedExpandKernel<T, 8>, shape,
                           w, rows, static_cast<T*>(out));
  });
}

}  // namespace tessera
