// What a warp of the packed few-row kernel (packed_gemv.cuh) does with a stage, and what a block
// does with its warps' sums.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/device/mma.cuh"
#include "kernels/device/unpack.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"

namespace tessera {
namespace packed_gemv {

constexpr int kMaxPairs = kPackedGemvMaxTiles / 2;

// Sums of a pass: of pair i of tiles, eight rows of x (two of them when wide), the lane's elements
// as in d of mma m16n8k16: rows of w lane / 4 of either tile, rows of x lane % 4 * 2 and the next.
template <bool kWide>
using Totals = float[kMaxPairs][kWide ? 2 : 1][4];

// Where a warp finds a stage's parts.
struct StageView {
  uint32_t weights, scales, zeros;  // zeros 0: none
  uint32_t x, x_high;  // this lane's ldmatrix rows: of x's first eight rows, and of the others
  int tiles;
  int even_zero, odd_zero;  // bytes from a tile's zeros to this lane's row, even and odd tiles
};

// The zero point of this lane's row of tile q.
template <int kBits>
__device__ __forceinline__ uint32_t ZeroPoint(const StageView& s, int segment, int q) {
  if (s.zeros == 0) return 1u << (kBits - 1);
  const uint32_t byte = LoadShared1(s.zeros + (segment * s.tiles + q) * kZeroTileBytes +
                                    (q & 1 ? s.odd_zero : s.even_zero));
  if (kBits == 8) return byte;
  return byte >> (threadIdx.x / 4 % 2 * 4) & 0xf;
}

// The B fragments of a stage's x, of its rows 0 to 7 and, when wide, 8 to 15.
template <int kSteps, bool kWide>
__device__ __forceinline__ void LoadX(const StageView& stage,
                                      uint32_t (&x)[kWide ? 2 : 1][kSteps][2]) {
#pragma unroll
  for (int r = 0; r < (kWide ? 2 : 1); ++r)
#pragma unroll
    for (int s = 0; s < kSteps; s += 2) {
      uint32_t both[4];
      LoadMatrices((r == 0 ? stage.x : stage.x_high) + s * 32, both);
      x[r][s][0] = both[0], x[r][s][1] = both[1];
      x[r][s + 1][0] = both[2], x[r][s + 1][1] = both[3];
    }
}

// This lane's words of tiles 2 * pair and the next; the last pair may lack its second tile, whose
// sums are then not stored.
struct PairView {
  __device__ PairView(const StageView& stage, int pair)
      : q0(2 * pair), q1(min(2 * pair + 1, stage.tiles - 1)) {
    const int lane = threadIdx.x % kWarp;
    const uint4 low = LoadShared16(stage.weights + q0 * kTileBytes + lane * 16);
    const uint4 high = LoadShared16(stage.weights + q1 * kTileBytes + lane * 16);
    low_words[0] = low.x, low_words[1] = low.y, low_words[2] = low.z, low_words[3] = low.w;
    high_words[0] = high.x, high_words[1] = high.y, high_words[2] = high.z, high_words[3] = high.w;
  }
  __device__ __forceinline__ float2 Scales(const StageView& stage, int segment) const {
    const uint32_t at =
        stage.scales + segment * stage.tiles * kScaleTileBytes + threadIdx.x % kWarp / 4 * 2;
    return {__half2float(__ushort_as_half(LoadShared2(at + q0 * kScaleTileBytes))),
            __half2float(__ushort_as_half(LoadShared2(at + q1 * kScaleTileBytes)))};
  }
  int q0, q1;
  uint32_t low_words[4], high_words[4];
};

// sums += the product of step `step`'s integers, as they come from the unpackers, and x.
template <typename T, int kBits, int kRuns, int kSteps, typename Unpack>
__device__ __forceinline__ void MultiplyStep(const PairView& pair, int step, const Unpack& low,
                                             const Unpack& high,
                                             const uint32_t (&x)[kRuns][kSteps][2],
                                             float (&sums)[kRuns][4]) {
  constexpr int kStepsAWord = 8 / kBits;
  uint32_t a02[kStepsAWord][2], a13[kStepsAWord][2];  // a step of the word that is not used is free
  low(pair.low_words[step / kStepsAWord], a02);
  high(pair.high_words[step / kStepsAWord], a13);
  const int at = step % kStepsAWord;
#pragma unroll
  for (int r = 0; r < kRuns; ++r)
    MultiplyAdd<T>(sums[r], {a02[at][0], a13[at][0], a02[at][1], a13[at][1]}, x[r][step][0],
                   x[r][step][1]);
}

// Adds a stage's products to `totals`. w is the 16-row operand, two tiles at once, so that up to
// eight rows of x cost one product; integers times x are summed per segment and scaled in fp32.
// Here a stage has one scale a row. Zero point and the unpacker's offset come off through the sums
// of x, made by one product with ones. `refill`, called with a pair that is done with, may
// overwrite this lane's words of it.
template <typename T, int kBits, bool kWide, typename Refill>
__device__ __forceinline__ void MultiplyBlock(const StageView& stage, const Refill& refill,
                                              Totals<kWide>& totals) {
  constexpr int kSteps = static_cast<int>(PackedBlock(kBits) / kPackedStep);
  constexpr int kRuns = kWide ? 2 : 1;
  constexpr uint32_t kOnes = std::is_same_v<T, __half> ? 0x3c003c00u : 0x3f803f80u;
  using Unpack = OffsetUnpacker<T, kBits>;
  constexpr float kDefault = (1 << (kBits - 1)) + Unpack::kOffset;
  uint32_t x[kRuns][kSteps][2];
  LoadX<kSteps, kWide>(stage, x);
  float x_sums[2][kRuns][4] = {};  // of even and odd steps
  if (kDefault != 0 || stage.zeros != 0) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
#pragma unroll
      for (int r = 0; r < kRuns; ++r)
        MultiplyAdd<T>(x_sums[s % 2][r], {kOnes, kOnes, kOnes, kOnes}, x[r][s][0], x[r][s][1]);
  }
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    if (2 * i >= stage.tiles) break;
    const PairView pair(stage, i);
    float offsets[2] = {kDefault, kDefault};
    if (stage.zeros != 0) {
      offsets[0] = static_cast<float>(ZeroPoint<kBits>(stage, 0, pair.q0)) + Unpack::kOffset;
      offsets[1] = static_cast<float>(ZeroPoint<kBits>(stage, 0, pair.q1)) + Unpack::kOffset;
    }
    const float2 scales = pair.Scales(stage, 0);
    float sums[2][kRuns][4] = {};
#pragma unroll
    for (int s = 0; s < kSteps; ++s)
      MultiplyStep<T, kBits, kRuns, kSteps>(pair, s, Unpack(), Unpack(), x, sums[s % 2]);
    refill(i);
#pragma unroll
    for (int r = 0; r < kRuns; ++r)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float x_sum = x_sums[0][r][j % 2] + x_sums[1][r][j % 2];
        const float sum = sums[0][r][j] + sums[1][r][j] - offsets[j / 2] * x_sum;
        totals[i][r][j] += (j < 2 ? scales.x : scales.y) * sum;
      }
  }
}

// The same for stages with a scale for every kSegmentSteps steps; zero points come off the
// integers.
template <typename T, int kBits, int kSegmentSteps, bool kWide, typename Refill>
__device__ __forceinline__ void MultiplySegments(const StageView& stage, const Refill& refill,
                                                 Totals<kWide>& totals) {
  constexpr int kSteps = static_cast<int>(PackedBlock(kBits) / kPackedStep);
  constexpr int kRuns = kWide ? 2 : 1;
  uint32_t x[kRuns][kSteps][2];
  LoadX<kSteps, kWide>(stage, x);
#pragma unroll
  for (int i = 0; i < kMaxPairs; ++i) {
    if (2 * i >= stage.tiles) break;
    const PairView pair(stage, i);
#pragma unroll
    for (int segment = 0; segment < kSteps / kSegmentSteps; ++segment) {
      const Unpacker<T, kBits> low(ZeroPoint<kBits>(stage, segment, pair.q0));
      const Unpacker<T, kBits> high(ZeroPoint<kBits>(stage, segment, pair.q1));
      const float2 scales = pair.Scales(stage, segment);
      float sums[kRuns][4] = {};
#pragma unroll
      for (int s = 0; s < kSegmentSteps; ++s)
        MultiplyStep<T, kBits, kRuns, kSteps>(pair, segment * kSegmentSteps + s, low, high, x,
                                              sums);
#pragma unroll
      for (int r = 0; r < kRuns; ++r)
#pragma unroll
        for (int j = 0; j < 4; ++j) totals[i][r][j] += (j < 2 ? scales.x : scales.y) * sums[r][j];
    }
    refill(i);
  }
}

template <typename T, int kBits, PackedSegment kSegment, bool kWide, typename Refill>
__device__ __forceinline__ void MultiplyStage(const StageView& stage, const Refill& refill,
                                              Totals<kWide>& totals) {
  if constexpr (kSegment == PackedSegment::kBlock) {
    MultiplyBlock<T, kBits, kWide>(stage, refill, totals);
  } else {
    MultiplySegments<T, kBits, kSegment == PackedSegment::kTwoSteps ? 2 : 1, kWide>(stage, refill,
                                                                                    totals);
  }
}

// Puts a warp's sums of a pass at `mine`, [t][row_floats], whole tiles.
template <bool kWide>
__device__ __forceinline__ void StoreSums(const PackedGemvPlan& plan, const TileMap& map, int t,
                                          const Totals<kWide>& totals, float* mine) {
  const int lane = threadIdx.x % kWarp;
  const int odd = map.odd_outputs + plan.up_floats;
#pragma unroll
  for (int r = 0; r < (kWide ? 2 : 1); ++r)
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      const int row = r * 8 + lane % 4 * 2 + column;
      if (row >= t) continue;
      float* at = mine + row * plan.row_floats + lane / 4;
#pragma unroll
      for (int pair = 0; pair < kMaxPairs; ++pair) {
        if (2 * pair >= plan.tiles) break;
        at[0] = totals[pair][r][column];
        if (2 * pair + 1 < plan.tiles) at[odd] = totals[pair][r][2 + column];
        at += map.two_outputs;
      }
    }
}

// Outputs of a group of passes as work items, dealt to the block's threads from `thread` on.
struct Items {
  __device__ Items(int first_output, int last_output, int t, int rotation)
      : first(first_output),
        width(last_output - first_output),
        count(width * t),
        thread(static_cast<int>((threadIdx.x + rotation * kWarp) % blockDim.x)) {}
  __device__ __forceinline__ int row(int item) const { return item < width ? 0 : item / width; }
  __device__ __forceinline__ int column(int item) const {
    return item < width ? item : item % width;
  }
  int first, width, count, thread;
};

// Adds the warps' partial sums in warp order and writes the outputs. `addend` belongs to the
// thread's first item.
template <typename T>
__device__ __forceinline__ void WriteOutputs(const LinearArgs& a, const PackedGemvPlan& plan,
                                             const Items& items, const float* partials,
                                             float addend) {
  const int t = static_cast<int>(a.t);
  for (int i = items.thread; i < items.count; i += static_cast<int>(blockDim.x)) {
    const int row = items.row(i), column = items.column(i);
    float sum = 0, up = 0;
#pragma unroll 8
    for (int w = 0; w < plan.warps; ++w) {
      const float* at = partials + (w * t + row) * plan.row_floats + column;
      sum += at[0];
      if (a.gated) up += at[plan.up_floats];
    }
    if (a.gated) sum = Silu(sum) * up;
    const int64_t n = items.first + column;
    sum += i == items.thread ? addend : Addend<T>(a, row, n);
    StoreOutput<T>(a, row, n, sum);
  }
}

}  // namespace packed_gemv
}  // namespace tessera
