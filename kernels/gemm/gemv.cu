#include <array>
#include <cstdint>
#include <utility>

#include "common/status_macros.h"
#include "kernels/device/launch.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/visit_dtype.cuh"
#include "kernels/device/weight_stream.cuh"
#include "kernels/gemm/epilogue.cuh"
#include "kernels/gemm/gemv.h"
#include "kernels/gemm/gemv_norm.cuh"
#include "kernels/gemm/gemv_stages.cuh"

namespace tessera {
namespace gemv {
namespace {

// Outputs of a group of passes as work items, dealt to the block's threads from `thread` on.
struct Items {
  Outputs out;
  int thread, count;

  __device__ Items(Outputs group, int t, int64_t rotation)
      : out(group),
        thread(static_cast<int>((threadIdx.x + rotation * kWarp) % kThreads)),
        count(static_cast<int>(group.last - group.first) * t) {}
  __device__ __forceinline__ int row(int item) const { return item < width() ? 0 : item / width(); }
  __device__ __forceinline__ int column(int item) const {
    return item < width() ? item : item % width();
  }
  __device__ __forceinline__ int width() const { return static_cast<int>(out.last - out.first); }
};

// Adds the warps' partial sums in warp order and writes the outputs; a gated output's up sum lies
// `up_floats` past its gate sum. `addend` belongs to the thread's first item.
template <typename T>
__device__ __forceinline__ void WriteOutputs(const LinearArgs& a, const Items& items,
                                             const float* partials, int row_floats, int up_floats,
                                             float addend) {
  const int t = static_cast<int>(a.t);
  for (int i = items.thread; i < items.count; i += kThreads) {
    const int row = items.row(i), column = items.column(i);
    float sum = 0, up = 0;
#pragma unroll
    for (int w = 0; w < kGemvWarps; ++w) {
      const float* at = partials + (w * t + row) * row_floats + column;
      sum += at[0];
      if (a.gated) up += at[up_floats];
    }
    if (a.gated) sum = Silu(sum) * up;
    const int64_t n = items.out.first + column;
    sum += i == items.thread ? addend : Addend<T>(a, row, n);
    StoreOutput<T>(a, row, n, sum);
  }
}

// A block owns a contiguous range of outputs and computes it in passes of up to 8 * tiles rows of
// w; in each, its warps share k, dealt in chunks of 32 * k_pieces. Every warp streams its chunks
// through a ring of its own, filled ahead across passes, and multiplies them on the tensor cores
// with w as the [k, 8] operand and x as the [16, k] one. Partial sums of a group of passes meet in
// shared memory, two buffers in turn, one barrier a group.
// Grid PlanGemv().blocks, block kThreads. Shared memory: rings, partial sums, resident x.
template <typename T, int kTileIndex, bool kResident, bool kWide>
__global__ void __launch_bounds__(kThreads, 2) GemvKernel(const GemvParams p) {
  extern __shared__ __align__(128) char shared[];
  constexpr GemvTile kTile = kGemvTiles[kTileIndex];
  constexpr int kTiles = kTile.tiles, kPieces = kTile.k_pieces;
  constexpr int kWeightBytes = kTiles * kPieces * kPieceBytes;
  constexpr int kChains = kTiles == 1 ? 4 : kTiles == 2 ? 2 : 1;  // independent sums an output
  const LinearArgs& a = p.args;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int g = lane / 4, q4 = lane % 4, t = static_cast<int>(a.t);
  const int stage_bytes = kWeightBytes + (kResident ? 0 : kPieces * t * kXPieceBytes);
  const int64_t chunks = (a.k + kPieces * kPieceK - 1) / (kPieces * kPieceK);
  const Outputs block = BlockOutputs(p.plan);
  auto* partials = reinterpret_cast<float*>(shared + kGemvWarps * kTile.stages * stage_bytes);
  const int row_floats = p.plan.row_floats, up_floats = (row_floats - kTileRows) / 2;
  const int partial_floats = kGemvWarps * t * row_floats;
  char* xs = reinterpret_cast<char*>(partials + 2 * partial_floats);
  const uint32_t ring = SharedAddress(shared) + warp * kTile.stages * stage_bytes;

  LetNextStart();
  StageLoader<T, kTileIndex, kResident, kWide> loader(p, block, chunks, ring, stage_bytes);
#pragma unroll 1
  for (int s = 0; s < kTile.stages; ++s) loader.template Load<false>(s);
  if (kResident) {
    const NormShare share(t);
    NormPieces weight;
    if (a.norm_weight != nullptr)
      weight.Load(a.norm_weight, share.piece, share.step, static_cast<int>(a.k / kLaneValues));
    WaitForPrevious();
    KeepX<T>(p, share, weight, xs, partials);
  } else {
    WaitForPrevious();
    loader.LoadXOfFirstStages();
    CommitCopies();
  }

  int slot = 0;
  int64_t chunk = warp;
  bool first = !kResident;
  for (int64_t pass = 0, group = 0; pass < p.plan.passes; ++group) {
    const int64_t group_end =
        pass + p.plan.group < p.plan.passes ? pass + p.plan.group : p.plan.passes;
    const Items items(
        {PassOutputs(p.plan, block, pass).first, PassOutputs(p.plan, block, group_end - 1).last}, t,
        group);
    float addend = 0;
    if (items.thread < items.count)
      addend = Addend<T>(a, items.row(items.thread), items.out.first + items.column(items.thread));
    if (first) WaitForCopies<0>();  // x of the first stages is in the last group
    first = false;
    float* buffer = partials + (group & 1) * partial_floats;
    for (; pass < group_end; ++pass) {
      float acc[kChains][kTiles][4] = {};
      for (; chunk < chunks; chunk += kGemvWarps) {
        WaitForCopies<kTile.stages - 1>();
        const uint32_t base = ring + slot * stage_bytes;
        uint4 w[kPieces][kTiles], low[kPieces], high[kPieces];
#pragma unroll
        for (int h = 0; h < kPieces; ++h) {
          const uint32_t x_at =
              kResident ? SharedAddress(xs) + g * static_cast<int>(p.plan.x_stride) +
                              (static_cast<int>(chunk) * kPieces + h) * kXPieceBytes + q4 * 16
                        : base + kWeightBytes + h * t * kXPieceBytes + lane * 16;
          const int eight_rows =
              kResident ? 8 * static_cast<int>(p.plan.x_stride) : 8 * kXPieceBytes;
          low[h] = high[h] = make_uint4(0, 0, 0, 0);
          if (g < t) low[h] = LoadShared16(x_at);
          if (kWide && g + 8 < t) high[h] = LoadShared16(x_at + eight_rows);
#pragma unroll
          for (int q = 0; q < kTiles; ++q)
            w[h][q] = LoadShared16(base + (q * kPieces + h) * kPieceBytes + lane * 16);
        }
#pragma unroll
        for (int h = 0; h < kPieces; ++h)
#pragma unroll
          for (int q = 0; q < kTiles; ++q) {
            MultiplyAdd<T>(acc[2 * h % kChains][q], {low[h].x, high[h].x, low[h].y, high[h].y},
                           w[h][q].x, w[h][q].y);
            MultiplyAdd<T>(acc[(2 * h + 1) % kChains][q],
                           {low[h].z, high[h].z, low[h].w, high[h].w}, w[h][q].z, w[h][q].w);
          }
        loader.template Load<true>(slot);
        slot = slot + 1 == kTile.stages ? 0 : slot + 1;
      }
      chunk -= chunks;

      const Outputs out = PassOutputs(p.plan, block, pass);
      const int count = static_cast<int>(out.last - out.first);
      float* mine = buffer + warp * t * row_floats + (out.first - items.out.first);
#pragma unroll
      for (int q = 0; q < kTiles; ++q) {
        const bool up = a.gated && q >= kTiles / 2;
        const int column = (up ? q - kTiles / 2 : q) * kTileRows + 2 * q4;
#pragma unroll
        for (int i = 0; i < (kWide ? 4 : 2); ++i) {
          float sum = acc[0][q][i];
#pragma unroll
          for (int c = 1; c < kChains; ++c) sum += acc[c][q][i];
          const int row = g + i / 2 * 8;
          if (row < t && column + i % 2 < count)
            mine[row * row_floats + (up ? up_floats : 0) + column + i % 2] = sum;
        }
      }
    }
    __syncthreads();
    WriteOutputs<T>(a, items, buffer, row_floats, up_floats, addend);
  }
}

using KernelFn = void (*)(GemvParams);

// Kernels by [tile][resident][wide].
template <typename T, size_t... kIndex>
constexpr auto KernelTable(std::index_sequence<kIndex...>) {
  return std::array<KernelFn, sizeof...(kIndex)>{
      GemvKernel<T, int{kIndex / 4}, (kIndex / 2) % 2 != 0, kIndex % 2 != 0>...};
}

}  // namespace
}  // namespace gemv

absl::Status LaunchGemv(const LinearArgs& a, const GemvPlan& plan, cudaStream_t stream) {
  return VisitHalf(a.dtype, "linear", [&]<typename T>(TypeTag<T>) -> absl::Status {
    static constexpr auto kKernels =
        gemv::KernelTable<T>(std::make_index_sequence<kGemvTileCount * 4>());
    const auto index = static_cast<size_t>(plan.tile * 4 + (plan.x_resident ? 2 : 0) + (a.t > 8));
    const gemv::KernelFn kernel = kKernels[index];
    RETURN_IF_ERROR(PrepareShared("linear", kernel, plan.shared_bytes));
    return LaunchDependent("linear launch", kernel,
                           {.grid = dim3(static_cast<unsigned>(plan.blocks)),
                            .block = dim3(gemv::kThreads),
                            .shared_bytes = static_cast<size_t>(plan.shared_bytes),
                            .stream = stream},
                           gemv::GemvParams{a, plan});
  });
}

}  // namespace tessera
