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
template <PackedGemvForm kForm>
struct Shared {
  __device__ __forceinline__ Shared(const Params& p, char* memory) {
    const PackedGemvPlan& plan = p.plan;
    const int t = RowsOf<kForm>(p);
    ring = memory;
    barriers = ring + plan.stages * plan.stage_bytes;
    squares =
        reinterpret_cast<float*>(barriers + plan.stages * kPackedStageBarriers + kPackedReadyBytes);
    partials = squares + t * kPackedGemvWarps;
    buffer_floats = kPackedGemvWarps * plan.batch * t * kPackedStripRows;
    xs = reinterpret_cast<char*>(squares) + plan.sum_bytes;
    norm_weight = xs + plan.x_bytes;
    units = reinterpret_cast<float*>(norm_weight + plan.norm_bytes);
    steps = reinterpret_cast<uint16_t*>(units + plan.x_unit_bytes / 4);
  }
  char *ring, *barriers;
  float *squares, *partials;  // of each row and warp; of strips, in one or two buffers
  int buffer_floats;          // of one of these
  char *xs, *norm_weight;
  float* units;  // of x's digits of each chunk and row
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
// tensor cores. Their sums of a batch of strips meet in shared memory and are added in the order of
// the warps.
// `start` waits until inputs may be read and starts to read x.
template <int kBits, PackedSegment kSegment, bool kZeros, PackedGemvForm kForm, typename X,
          typename Outputs, typename Start>
__device__ __forceinline__ void MultiplyAll(const Params& p, const Shared<kForm>& shared,
                                            StageRing<kBits, kSegment, kForm>& ring, X& x,
                                            const Outputs& outputs, const Start& start) {
  constexpr bool kWide = PackedGemvWide(kForm);
  constexpr int kWarps = kPackedGemvWarps;
  const PackedGemvPlan& plan = p.plan;
  const int warp = WarpIndex(), t = RowsOf<kForm>(p);
  const int rounds = plan.rounds, chunks = plan.chunks;
  const ChunkProduct<kBits, kSegment, kZeros, kForm> product(p);
  start();
  const auto addend = outputs.FirstAddend();
  x.WaitForFirst();
  if (kWide) {
    x.WaitForAll();
    for (int row = 0; row < t; ++row) {
      float squares = 0;
      XPlace place = x.First();
      for (int chunk = warp; chunk < chunks; chunk += X::kTogether * kWarps) {
        x.Make(chunk, place, row, squares);
        for (int i = 0; i < X::kTogether; ++i) place = x.Next(place);
      }
      outputs.KeepSquares(row, squares);
    }
    __syncwarp();
  }

  for (int strip = 0, batch = 0; strip < plan.strips; ++batch) {
    const int first = strip, end = min(strip + plan.batch, plan.strips);
    float* const buffer = shared.partials + (batch & 1) * shared.buffer_floats;
    for (; strip < end; ++strip) {
      StripSums<kForm> sums;
      float squares = 0;
      int chunk = warp;
      XPlace place = x.First();
      for (int round = 0; round < rounds; ++round, chunk += kWarps) {
        const bool mine = chunk < chunks;
        if (!kWide && strip == 0 && round % X::kTogether == 0) {
          if (round == X::kTogether) x.WaitForAll();
          if (mine) x.Make(chunk, place, 0, squares);
          __syncwarp();
        }
        const uint32_t stage = ring.Wait();
        if (mine) product.Add(stage, place, sums);
        ring.Release();
        place = x.Next(place);
      }
      if (X::kSeveralProducts && strip == 0) NamedWait<kWarps * kWarp>(kMultiplyBarrier);
      sums.Store(outputs.SumsOf(buffer, strip - first), t, kWarps * kPackedStripRows);
      if (!kWide && strip == 0) outputs.KeepSquares(0, squares);
    }
    NamedWait<kWarps * kWarp>(kMultiplyBarrier);
    if (p.args.gated) {
      outputs.WriteGated(first, end, buffer);
    } else {
      outputs.Write(first, end, buffer, addend);
    }
  }
}

// Two warps load the stages (PackedGemvPlan), the others multiply.
// Grid PlanPackedGemv().blocks, block kPackedGemvThreads.
template <typename T, int kBits, PackedSegment kSegment, bool kZeros, PackedGemvForm kForm>
__global__ void __launch_bounds__(kPackedGemvThreads, PackedGemvResident(kForm))
    Kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) char memory[];
  LetNextStart();
  const Shared<kForm> shared(p, memory);
  const BlockWork block(p.plan);

  StageRing<kBits, kSegment, kForm> ring(p, block, SharedAddress(shared.ring),
                                         SharedAddress(shared.barriers), shared.steps);
  const int loader = WarpIndex() - kPackedGemvWarps;
  if (kSegment == PackedSegment::kStep)
    for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(p.args.k / kPackedStep);
         i += static_cast<int>(blockDim.x))
      shared.steps[i] = p.args.packed.group_of_step[i];
  if (loader == 0 && LaneIndex() == 0) ring.Init();
  __syncthreads();
  if (loader >= 0) {
    ring.LoadAll(loader == 0);
  } else {
    XKeeper<T, kBits, kForm> x(p, shared.xs, shared.norm_weight, shared.units);
    const OutputWriter<kForm, OutputPlace<T>> outputs(p, block, shared.squares, {p.args});
    TouchParams(p);
    MultiplyAll<kBits, kSegment, kZeros, kForm>(p, shared, ring, x, outputs, [&] {
      WaitForPrevious();
      x.Start();
      if (threadIdx.x == 0) ring.AllowAll();
    });
  }
}

using KernelFn = void (*)(Params);

constexpr size_t kSegments = static_cast<size_t>(PackedSegment::kStep) + 1;
constexpr size_t kForms = static_cast<size_t>(PackedGemvForm::kWide) + 1;
constexpr size_t kKernels = 2 * 2 * kSegments * kForms;

// Kernels by [8 bits][zeros][segment][form].
template <typename T, size_t... kIndex>
constexpr auto KernelTable(std::index_sequence<kIndex...>) {
  return std::array<KernelFn, sizeof...(kIndex)>{
      Kernel < T, kIndex / (2 * kSegments * kForms) == 0 ? 4 : 8,
      static_cast<PackedSegment>(kIndex / kForms % kSegments),
      kIndex / (kSegments * kForms) % 2 != 0, static_cast<PackedGemvForm>(kIndex % kForms) > ...};
}

constexpr size_t KernelIndex(int bits, bool zeros, PackedSegment segment, PackedGemvForm form) {
  const size_t format = (bits == 8 ? 2 : 0) + (zeros ? 1 : 0);
  return (format * kSegments + static_cast<size_t>(segment)) * kForms + static_cast<size_t>(form);
}

// Each compiled in a file of its own.
KernelFn KernelBf16(size_t index);
KernelFn KernelF16(size_t index);

}  // namespace packed_gemv
}  // namespace tessera
