// The few-row kernel over packed weights, and its instances for one activation type.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "kernels/gemm/packed_gemv_outputs.cuh"
#include "kernels/gemm/packed_gemv_product.cuh"
#include "kernels/gemm/packed_gemv_stages.cuh"
#include "kernels/gemm/packed_gemv_x.cuh"

namespace tessera {
namespace packed_gemv {

// A block's shared memory, in this order.
struct Shared {
  __device__ Shared(const Params& p, char* memory) {
    const PackedGemvPlan& plan = p.plan;
    const int t = static_cast<int>(p.args.t);
    ring = memory;
    barriers = ring + plan.stages * plan.stage_bytes;
    xs = barriers + plan.stages * 16 + 16;
    weights = xs + plan.x_bytes;
    x_scales = reinterpret_cast<float*>(weights + plan.norm_bytes);
    squares = x_scales + plan.x_scale_bytes / 4;
    partials = squares + t * plan.warps;
    buffer_floats = plan.warps * plan.group * t * plan.row_floats;
    steps = reinterpret_cast<uint16_t*>(partials +
                                        buffer_floats * (plan.strips > plan.group ? 2 : 1));
  }
  char *ring, *barriers, *xs, *weights;
  float *x_scales, *squares;  // of each chunk and row; of each row and warp
  int buffer_floats;          // of one buffer of partial sums
  float* partials;
  uint16_t* steps;
};

// Reads every line of the parameters, so that later reads of them do not wait for memory.
__device__ __forceinline__ void TouchParams(const Params& p) {
  constexpr int kLine = 64;
  constexpr int kLines =
      static_cast<int>(sizeof(LinearArgs) + sizeof(PackedGemvPlan) + kLine - 1) / kLine;
  const char* const from = reinterpret_cast<const char*>(&p);
#pragma unroll
  for (int i = 0; i < kLines; ++i) {
    const uint32_t word = *reinterpret_cast<const uint32_t*>(from + i * kLine);
    asm volatile("" ::"r"(word));
  }
}

// What the multiplying warps do: each takes one chunk of every stage and multiplies it by x on the
// tensor cores. Their sums of a group of strips meet in shared memory and are added in the order of
// the warps.
template <typename T, int kBits, PackedSegment kSegment, bool kZeros, PackedGemvForm kForm>
__device__ __forceinline__ void MultiplyAll(const Params& p, const BlockWork& block,
                                            const Shared& shared,
                                            StageRing<kBits, kSegment>& ring) {
  constexpr bool kWide = PackedGemvWide(kForm);
  const PackedGemvPlan& plan = p.plan;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, t = static_cast<int>(p.args.t);
  const OutputWriter<T, PackedGemvMaxWarps(kForm)> outputs(p, block, shared.squares);
  const XKeeper<T, kBits, kWide> x(p, shared.xs, shared.weights, shared.x_scales);
  using Product = ChunkProduct<kBits, kSegment, kZeros, kForm>;
  const Product product(p, SharedAddress(shared.xs), SharedAddress(shared.x_scales));
  TouchParams(p);
  WaitForPrevious();
  x.Start();
  const float addend = outputs.FirstAddend();
  x.Wait();
  if (kWide) {
    for (int row = 0; row < t; ++row) {
      float squares = 0;
      for (int chunk = warp; chunk < plan.chunks; chunk += plan.warps)
        x.Convert(chunk, row, squares);
      outputs.KeepSquares(row, squares);
    }
    __syncwarp();
  }
  if (threadIdx.x == 0) ring.AllowAll();
  if (PackedGemvResident(kForm) == 1) LetNextStart();  // it has no room until this block ends

  for (int strip = 0, group = 0; strip < plan.strips; ++group) {
    const int first = strip, end = min(strip + plan.group, plan.strips);
    float* const buffer = shared.partials + (group & 1) * shared.buffer_floats;
    float* mine = buffer + warp * plan.group * t * plan.row_floats;
    for (; strip < end; ++strip) {
      StripSums<kForm> sums;
      float squares[kPackedGemvNarrowRows] = {};
      const typename Product::Place place(product, block.first + strip * plan.strip_tiles);
      int chunk = warp;
      for (int round = 0; round < plan.rounds; ++round, chunk += plan.warps) {
        if (!kWide && strip == 0 && chunk < plan.chunks) {
#pragma unroll
          for (int row = 0; row < kPackedGemvNarrowRows; ++row)
            if (row < t) x.Convert(chunk, row, squares[row]);
          __syncwarp();
        }
        const uint32_t stage = ring.Wait();
        if (chunk < plan.chunks)
          product.Add(place.At(stage, chunk, PlaceOfScaleRow<kSegment>(p, chunk - warp, warp)),
                      sums);
        ring.Release();
      }
      sums.Store(mine, t, plan);
      mine += t * plan.row_floats;
      if (!kWide && strip == 0)
#pragma unroll
        for (int row = 0; row < kPackedGemvNarrowRows; ++row)
          if (row < t) outputs.KeepSquares(row, squares[row]);
    }
    NamedWait(kMultiplyBarrier, plan.warps * kWarp);
    if (p.args.gated) {
      outputs.WriteGated(first, end, buffer);
    } else {
      outputs.Write(first, end, buffer, addend);
    }
  }
}

// A warp loads the stages (PackedGemvPlan), the others multiply.
// Grid PlanPackedGemv().blocks, block 32 * (warps + 1).
template <typename T, int kBits, PackedSegment kSegment, bool kZeros, PackedGemvForm kForm>
__global__ void __launch_bounds__(32 * (PackedGemvMaxWarps(kForm) + 1), PackedGemvResident(kForm))
    Kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) char memory[];
  if (PackedGemvResident(kForm) > 1) LetNextStart();
  const Shared shared(p, memory);
  const BlockWork block(p.plan);

  if (kSegment == PackedSegment::kStep)
    for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(p.args.k / kPackedStep);
         i += static_cast<int>(blockDim.x))
      shared.steps[i] = p.args.packed.group_of_step[i];
  StageRing<kBits, kSegment> ring(p, block, SharedAddress(shared.ring),
                                  SharedAddress(shared.barriers), shared.steps);
  if (threadIdx.x == p.plan.warps * kWarp) ring.Init();
  __syncthreads();
  if (threadIdx.x / kWarp == p.plan.warps) {
    ring.LoadAll();
  } else {
    MultiplyAll<T, kBits, kSegment, kZeros, kForm>(p, block, shared, ring);
  }
}

using KernelFn = void (*)(Params);

// Kernels by [8 bits][zeros][segment][form].
template <typename T, size_t... kIndex>
constexpr auto KernelTable(std::index_sequence<kIndex...>) {
  return std::array<KernelFn, sizeof...(kIndex)>{
      Kernel < T, kIndex / 24 == 0 ? 4 : 8, static_cast<PackedSegment>(kIndex / 4 % 3),
      kIndex / 12 % 2 != 0, static_cast<PackedGemvForm>(kIndex % 4) > ...};
}
constexpr size_t kKernels = 48;

constexpr size_t KernelIndex(int bits, bool zeros, PackedSegment segment, PackedGemvForm form) {
  return (bits == 8 ? 24 : 0) + (zeros ? 12 : 0) + static_cast<size_t>(segment) * 4 +
         static_cast<size_t>(form);
}

// Each compiled in a file of its own.
KernelFn KernelBf16(size_t index);
KernelFn KernelF16(size_t index);

}  // namespace packed_gemv
}  // namespace tessera
