// The few-row kernel over packed weights, and its instances for one activation type.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "kernels/device/launch.cuh"
#include "kernels/gemm/packed_gemv_outputs.cuh"
#include "kernels/gemm/packed_gemv_product.cuh"
#include "kernels/gemm/packed_gemv_ring.cuh"
#include "kernels/gemm/packed_gemv_sums.cuh"
#include "kernels/gemm/packed_gemv_work.cuh"
#include "kernels/gemm/packed_gemv_x.cuh"

namespace tessera {
namespace packed_gemv {

// A block's shared memory, in this order.
template <PackedGemvForm kForm>
struct Shared {
  __device__ __forceinline__ Shared(const Params& p, char* memory) {
    const PackedGemvPlan& plan = p.plan;
    ring = memory;
    barriers = SharedAddress(ring + plan.stages * plan.stage_bytes);
    sum_barriers = barriers + plan.stages * kPackedBarrierBytes + kPackedReadyBytes;
    char* const behind = ring + plan.stages * (plan.stage_bytes + kPackedBarrierBytes);
    sums =
        reinterpret_cast<float*>(behind + kPackedReadyBytes + plan.sum_slots * kPackedBarrierBytes);
    xs = reinterpret_cast<char*>(sums) + plan.sum_slots * plan.sum_slot_bytes;
    norm_weight = xs + plan.x_bytes;
    units = reinterpret_cast<float*>(norm_weight + plan.norm_bytes);
    steps = reinterpret_cast<uint16_t*>(units + plan.x_unit_bytes / 4);
  }
  char* ring;
  uint32_t barriers, sum_barriers;
  float* sums;
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

// Keeps the sum over the warp's lanes of what they have of the squares of a row of x.
__device__ __forceinline__ void KeepSquares(const Params& p, float squares, float* to) {
  if (p.args.norm_weight == nullptr) return;
  squares = WarpReduce<SumOp>(squares);
  if (LaneIndex() == 0) *to = squares;
}

// What the multiplying warps do: each takes one chunk of every stage and multiplies it by x on the
// tensor cores. `start` waits until inputs may be read and starts to read x; `after_strip` comes
// when a strip's sums are handed over.
template <int kBits, PackedSegment kSegment, bool kZeros, PackedGemvForm kForm, typename X,
          typename Start, typename AfterStrip>
__device__ __forceinline__ void MultiplyAll(const Params& p,
                                            StageRing<kBits, kSegment, kForm>& ring,
                                            SumRing& sum_ring, X& x, const Start& start,
                                            const AfterStrip& after_strip) {
  constexpr bool kWide = PackedGemvWide(kForm);
  constexpr int kWarps = kPackedGemvWarps;
  const int warp = WarpIndex(), t = RowsOf<kForm>(p);
  const int strips = p.plan.strips, rounds = p.plan.rounds, chunks = p.plan.chunks;
  const ChunkProduct<kBits, kSegment, kZeros, kForm> product(p);
  start();
  x.WaitForFirst();
  if (kWide) {
    x.WaitForAll();
    float* const squares_of = sum_ring.WaitForFree() + t * SumRing::kRowFloats + warp;
    for (int row = 0; row < t; ++row) {
      float squares = 0;
      XPlace place = x.First();
      for (int chunk = warp; chunk < chunks; chunk += X::kTogether * kWarps) {
        x.Make(chunk, place, row, squares);
        for (int i = 0; i < X::kTogether; ++i) place = x.Next(place);
      }
      KeepSquares(p, squares, squares_of + row * kWarps);
    }
    __syncwarp();
  }

  for (int strip = 0; strip < strips; ++strip) {
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
    float* const slot = sum_ring.WaitForFree();
    sums.Store(slot + warp * kPackedStripRows, t, SumRing::kRowFloats);
    if (!kWide && strip == 0) KeepSquares(p, squares, slot + SumRing::kRowFloats + warp);
    sum_ring.HandOver();
    after_strip(strip);
  }
}

// Warps of a block behind those that multiply.
constexpr int kLoadingWarp = kPackedGemvWarps, kWritingWarp = kPackedGemvWarps + 1;

// A warp loads the stages (PackedGemvPlan), one writes the outputs, the others multiply; these
// write the outputs themselves where there are several rows of x, which are too many for one warp.
// Grid PlanPackedGemv().blocks, block kPackedGemvThreads.
template <typename T, int kBits, PackedSegment kSegment, bool kZeros, PackedGemvForm kForm>
__global__ void __launch_bounds__(kPackedGemvThreads, PackedGemvResident(kForm))
    Kernel(const __grid_constant__ Params p) {
  constexpr bool kWide = PackedGemvWide(kForm);
  extern __shared__ __align__(128) char memory[];
  LetNextStart();
  const Shared<kForm> shared(p, memory);
  const BlockWork block(p.plan);
  StageRing<kBits, kSegment, kForm> ring(p, block, SharedAddress(shared.ring), shared.barriers,
                                         shared.steps);
  SumRing sum_ring(p.plan, shared.sums, shared.sum_barriers);
  const int warp = WarpIndex();
  if (kSegment == PackedSegment::kStep)
    for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(p.args.k / kPackedStep);
         i += static_cast<int>(blockDim.x))
      shared.steps[i] = p.args.packed.group_of_step[i];
  if (warp == kLoadingWarp && LaneIndex() == 0) {
    sum_ring.Init(RowsOf<kForm>(p));  // a writing warp for each row
    ring.Init();
  }
  __syncthreads();
  if (warp == kLoadingWarp) {
    ring.LoadAll();
  } else if (warp == kWritingWarp) {
    if (kWide) return;
    WaitForPrevious();
    OutputWriter<kForm, OutputPlace<T>>(p, block, {p.args}, 0).WriteAll(sum_ring);
  } else {
    XKeeper<T, kBits, kForm> x(p, shared.xs, shared.norm_weight, shared.units);
    SumRing written(p.plan, shared.sums, shared.sum_barriers);
    OutputWriter<kForm, OutputPlace<T>> outputs(p, block, {p.args}, warp);
    TouchParams(p);
    MultiplyAll<kBits, kSegment, kZeros, kForm>(
        p, ring, sum_ring, x,
        [&] {
          WaitForPrevious();
          x.Start();
          if (threadIdx.x == 0) ring.AllowAll();
        },
        [&](int strip) {
          if (kWide && warp < static_cast<int>(p.args.t)) outputs.Write(strip, written);
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
