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
constexpr int kPieces = 4;  // of a block of a row (packed_weight.h)
constexpr int kChunk = 8;   // of k: 16 bytes of output, half a step

constexpr int kWords = 2;  // of a piece: what a lane takes

// Of k: what a lane takes, and a warp.
constexpr int LaneSpan(int bits) { return kPieces * kWords * 32 / bits; }
constexpr int WarpSpan(int bits) { return kWarp * LaneSpan(bits); }

// Divisions of 64 bits would take more instructions than all else here.
__device__ __forceinline__ int64_t GroupOf(const PackedWeight& w, int64_t step) {
  if (w.group_of_step != nullptr) return w.group_of_step[step];
  if (w.group >= w.k) return 0;
  return static_cast<uint32_t>(step * kPackedStep) / static_cast<uint32_t>(w.group);
}

template <int kBits>
__device__ __forceinline__ uint32_t ZeroOf(const PackedWeight& w, int64_t group, int64_t row) {
  if (w.zeros == nullptr) return 1u << (kBits - 1);
  const auto* zeros = static_cast<const uint8_t*>(w.zeros) + group * PackedZeroStride(kBits, w.n);
  if constexpr (kBits == 8) return zeros[row];
  return zeros[row / 2] >> (row % 2 * 4) & 15u;
}

template <typename T, int kBits>
__device__ __forceinline__ void SetStep(const PackedWeight& w, int64_t step, int64_t row,
                                        RowUnpacker<T, kBits>& unpacker) {
  const int64_t group = GroupOf(w, min(step, w.k / kPackedStep - 1));
  unpacker.Set(static_cast<const uint16_t*>(w.scales)[group * w.n + row],
               ZeroOf<kBits>(w, group, row));
}

// Chunk kIndex of a lane and those behind it: a field of a word of each piece. Scales are found at
// `step`, the lane's first, and again where the lane's span may have more than one group.
template <int kIndex, typename T, int kBits, int kChunks>
__device__ __forceinline__ void ExpandChunks(const PackedWeight& w, int64_t step, int64_t row,
                                             const uint2 (&words)[kPieces],
                                             RowUnpacker<T, kBits>& unpacker,
                                             uint32_t (&out)[kChunks][kPieces]) {
  if constexpr (kIndex < kChunks) {
    constexpr int kFields = kChunks / kWords;
    if (kIndex == 0 ||
        (kIndex % 2 == 0 && (w.group_of_step != nullptr || w.group < LaneSpan(kBits))))
      SetStep(w, step + kIndex / 2, row, unpacker);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece)
      out[kIndex][piece] = unpacker.template Weights<kIndex % kFields>(
          kIndex < kFields ? words[piece].x : words[piece].y);
    ExpandChunks<kIndex + 1>(w, step, row, words, unpacker, out);
  }
}

// A warp has a row and WarpSpan() of k. Lanes in twos write 32 bytes of one's at a time, so that
// sectors are written whole. Grid (ceil(rows / kRows), ceil(k / WarpSpan())), block kThreads.
template <typename T, int kBits>
__global__ void __launch_bounds__(kThreads)
    PackedExpandKernel(PackedWeight w, PackedRowRuns rows, T* out) {
  constexpr int kSpan = LaneSpan(kBits), kChunks = kSpan / kChunk;
  LetNextStart();
  WaitForPrevious();
  const int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.x / kWarp;
  if (row >= rows.count()) return;
  const uint32_t run = static_cast<uint32_t>(row) / static_cast<uint32_t>(rows.rows);
  const int64_t row_of_w = rows.first + row + run * (rows.apart - rows.rows);
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int span = static_cast<int>(blockIdx.y) * kWarp + lane;  // of the row
  const int width = static_cast<int>(w.k), k = span * kSpan;
  uint2 words[kPieces] = {};
  uint32_t mine[kChunks][kPieces];
  if (k < width) {
    const auto* const values = static_cast<const uint8_t*>(w.values) +
                               PackedRowAt(kBits, w.k, row_of_w) + span / 2 * kPackedTileBytes +
                               span % 2 * (kWords * 4);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece)
      words[piece] = __ldg(reinterpret_cast<const uint2*>(values + piece * 16));
  }
  RowUnpacker<T, kBits> unpacker;
  ExpandChunks<0>(w, k / kPackedStep, row_of_w, words, unpacker, mine);
  // Of each two chunks the lane keeps that of its own parity, and gets its neighbour's.
  const int odd = lane % 2;
  const int first = (span - odd) * kSpan + odd * kChunk;
  T* const to = out + row * w.k + first;
#pragma unroll
  for (int two = 0; two < kChunks; two += 2) {
    uint32_t own[kPieces], other[kPieces];
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      const uint32_t gives = odd == 0 ? mine[two + 1][piece] : mine[two][piece];
      own[piece] = odd == 0 ? mine[two][piece] : mine[two + 1][piece];
      other[piece] = __shfl_xor_sync(~0u, gives, 1);
    }
#pragma unroll
    for (int side = 0; side < 2; ++side) {  // the even lane's chunks, then the odd one's
      const bool takes_own = side == odd;
      const int on = side * kSpan + two * kChunk;
      if (first + on < width)
        *reinterpret_cast<uint4*>(to + on) =
            make_uint4(takes_own ? own[0] : other[0], takes_own ? own[1] : other[1],
                       takes_own ? own[2] : other[2], takes_own ? own[3] : other[3]);
    }
  }
}

}  // namespace

absl::Status LaunchPackedExpand(const PackedWeight& w, const PackedRowRuns& rows, void* out,
                                DType dtype, cudaStream_t stream) {
  if (rows.count() == 0 || w.k == 0) return absl::OkStatus();
  const auto blocks = [](int64_t count, int64_t each) {
    return static_cast<unsigned>(CeilDiv(count, each));
  };
  const LaunchShape shape{dim3(blocks(rows.count(), kRows), blocks(w.k, WarpSpan(w.bits))),
                          dim3(kThreads), 0, stream};
  return VisitHalf(dtype, "packed_expand", [&]<typename T>(TypeTag<T>) {
    return LaunchDependent("packed_expand launch",
                           w.bits == 4 ? PackedExpandKernel<T, 4> : PackedExpandKernel<T, 8>, shape,
                           w, rows, static_cast<T*>(out));
  });
}

}  // namespace tessera
