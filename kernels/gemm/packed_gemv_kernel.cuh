// The few-row kernel over packed weights, and its instances for one activation type.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "kernels/gemm/packed_gemv_product.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"
#include "kernels/gemm/packed_gemv_x.cuh"

namespace tessera {
namespace packed_gemv {

// Waits until at most `pending` of this thread's latest groups are under way.
__device__ __forceinline__ void WaitForCopies(int pending) {
  switch (pending) {
#define TESSERA_WAIT_CASE(n)     \
  case n:                        \
    tessera::WaitForCopies<n>(); \
    break;
    TESSERA_WAIT_CASE(1)
    TESSERA_WAIT_CASE(2)
    TESSERA_WAIT_CASE(3)
    TESSERA_WAIT_CASE(4)
    TESSERA_WAIT_CASE(5)
    TESSERA_WAIT_CASE(6)
    TESSERA_WAIT_CASE(7)
    TESSERA_WAIT_CASE(8)
    TESSERA_WAIT_CASE(9)
    TESSERA_WAIT_CASE(10)
    TESSERA_WAIT_CASE(11)
    TESSERA_WAIT_CASE(12)
    TESSERA_WAIT_CASE(13)
    TESSERA_WAIT_CASE(14)
    TESSERA_WAIT_CASE(15)
#undef TESSERA_WAIT_CASE
    default:
      tessera::WaitForCopies<0>();
  }
}

// A block owns a contiguous range of outputs and computes it in passes of up to 64 rows of w; in
// each, its warps share k, dealt in chunks of one 64-byte block of every row. Every warp streams
// its chunks through a ring of its own, filled ahead across passes, turns them into 16-bit integers
// and multiplies them on the tensor cores. Partial sums of a group of passes meet in shared memory
// and are added in warp order.
// Grid PlanPackedGemv().blocks, block 32 * warps. Shared memory: rings, partial sums, resident x,
// the steps' groups.
template <typename T, int kBits, PackedSegment kSegment, bool kWide>
__global__ void __launch_bounds__(32 * PackedGemvWarps(kWide ? kPackedGemvMaxRows : 1), 1)
    Kernel(const Params p) {
  extern __shared__ __align__(128) char shared[];
  constexpr int kBlock = static_cast<int>(PackedBlock(kBits));
  const LinearArgs& a = p.args;
  const PackedGemvPlan& plan = p.plan;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, t = static_cast<int>(a.t);
  const BlockRange block(plan);
  const TileMap map(a);
  auto* partials = reinterpret_cast<float*>(shared + plan.warps * plan.stages * plan.stage_bytes);
  const int partial_floats = plan.warps * t * plan.row_floats;
  char* xs = reinterpret_cast<char*>(partials + plan.buffers * partial_floats);
  auto* steps = reinterpret_cast<uint16_t*>(xs + (plan.x_resident ? t * plan.x_stride : 0));
  const uint32_t ring = SharedAddress(shared) + warp * plan.stages * plan.stage_bytes;

  LetNextStart();
  if (kSegment == PackedSegment::kStep) {
    for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(a.k / kPackedStep);
         i += static_cast<int>(blockDim.x))
      steps[i] = a.packed.group_of_step[i];
    __syncthreads();
  }
  StageLoader<T, kBits, kSegment> loader(p, block, ring, steps);
#pragma unroll 1
  for (int s = 0; s < plan.stages; ++s) loader.LoadWithoutX(s);
  if (plan.x_resident) {
    KeepX<T>(p, xs, partials);
  } else {
    WaitForPrevious();
    loader.LoadXOfFirstStages();
    CommitCopies();
  }

  // Lane l of ldmatrix addresses row l % 8 of matrix l / 8; rows past t repeat row 0, since what
  // they give is not stored.
  const int x_row = lane % 8;
  const uint32_t x_base =
      (plan.x_resident ? SharedAddress(xs) : ring + plan.x_offset) + lane / 8 * 16;
  const uint32_t x_low = x_base + (x_row < t ? x_row : 0) * plan.x_stride;
  const uint32_t x_high = x_base + (x_row + 8 < t ? x_row + 8 : 0) * plan.x_stride;

  int slot = 0, chunk = warp;
  bool first = !plan.x_resident;
  for (int pass = 0, group = 0; pass < plan.passes; ++group) {
    const int group_end = min(pass + plan.group, plan.passes);
    const Items items(block.pass_first(plan, pass), block.pass_first(plan, group_end), t, group);
    float addend = 0;
    if (items.thread < items.count)
      addend = Addend<T>(a, items.row(items.thread), items.first + items.column(items.thread));
    if (first) WaitForCopies(0);  // x of the first stages is in the last group
    first = false;
    float* const buffer = partials + (plan.buffers == 1 ? 0 : (group & 1) * partial_floats);
    float* mine = buffer + warp * t * plan.row_floats;
    for (; pass < group_end; ++pass) {
      const int first_row = block.first + pass * plan.pass_outputs;
      const auto zero_at = [&](int row) { return (row * kBits / 8 & 3) + lane / 4 * kBits / 8; };
      Totals<kWide> totals = {};
      for (; chunk < plan.chunks; chunk += plan.warps) {
        WaitForCopies(plan.stages - 1);
        __syncwarp();  // other lanes copied the scales
        const uint32_t base = ring + slot * plan.stage_bytes;
        const uint32_t x_at = plan.x_resident ? chunk * (kBlock * 2) : slot * plan.stage_bytes;
        MultiplyStage<T, kBits, kSegment, kWide>(
            {.weights = base,
             .scales = base + plan.scale_offset,
             .zeros = a.packed.zeros != nullptr ? base + plan.zero_offset : 0,
             .x = x_low + x_at,
             .x_high = x_high + x_at,
             .tiles = plan.tiles,
             .even_zero = zero_at(first_row),
             .odd_zero = zero_at(first_row + map.odd_rows)},
            [&](int pair) { loader.LoadPair(slot, pair); }, totals);
        __syncwarp();  // all lanes have read the slot
        loader.template LoadRest<true>(slot);
        slot = slot + 1 == plan.stages ? 0 : slot + 1;
      }
      chunk -= plan.chunks;
      __syncwarp();  // of the pass before, more was stored than it has
      StoreSums<kWide>(plan, map, t, totals, mine);
      mine += plan.pass_outputs;
    }
    __syncthreads();
    WriteOutputs<T>(a, plan, items, buffer, addend);
    if (plan.buffers == 1) __syncthreads();
  }
}

using KernelFn = void (*)(Params);

// Kernels by [8 bits][segment][wide].
template <typename T, size_t... kIndex>
constexpr auto KernelTable(std::index_sequence<kIndex...>) {
  return std::array<KernelFn, sizeof...(kIndex)>{Kernel < T, kIndex / 6 == 0 ? 4 : 8,
                                                 static_cast<PackedSegment>(kIndex / 2 % 3),
                                                 kIndex % 2 != 0 > ...};
}
constexpr size_t kKernels = 12;

constexpr size_t KernelIndex(int bits, PackedSegment segment, bool wide) {
  return (bits == 8 ? 6 : 0) + static_cast<size_t>(segment) * 2 + (wide ? 1 : 0);
}

// Each compiled in a file of its own.
KernelFn KernelBf16(size_t index);
KernelFn KernelF16(size_t index);

}  // namespace packed_gemv
}  // namespace tessera
