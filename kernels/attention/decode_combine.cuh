// Adding the sums of a context's chunks, in their order. The decode kernel does it in registers for
// the chunks that one block has, and the combine kernel for the rest: with the same operations, so
// that the result does not show which did what.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/attention/decode_schedule.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/mma.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/device/visit_dtype.cuh"

namespace tessera {

// Sums are relative to 2^max; these bring both to the common maximum.
struct FoldFactors {
  float max, before, next;
};
__device__ __forceinline__ FoldFactors FactorsOf(float max_before, float max_next) {
  const float max = fmaxf(max_before, max_next);
  return {max, Exp2(max_before - max), Exp2(max_next - max)};
}
__device__ __forceinline__ float Fold(float before, float next, const FoldFactors& f) {
  return __fmaf_rn(next, f.next, __fmul_rn(before, f.before));
}

// Adds up the chunks of one row of a region: grid (regions * rows), block kE, a thread for each
// element. Chunks pass in batches of kBatch: all of a batch's loads are under way at once, and lane
// i works out the factors of chunks i and i + 32 for the whole warp.
template <typename T, int kE>
__global__ void __launch_bounds__(kE) DecodeCombineKernel(const __grid_constant__ DecodeParams p) {
  constexpr int kBatch = 2 * kWarp, kGroup = 8;
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  LetNextStart();
  __shared__ float4 terms_of_warp[kE / kWarp][kBatch];  // factors, denominator, whether it counts
  float4* const terms = terms_of_warp[threadIdx.x / kWarp];
  const int lane = threadIdx.x % kWarp;
  const int region = blockIdx.x / p.rows, row = blockIdx.x % p.rows;
  // With a region for each head the loads of the chunks do not wait for the record.
  int sequence = p.region_per_head ? region / p.heads : -1, head = region % p.heads;
  int chunks = sequence < 0 ? 0 : CutContext(VisibleTokens(p, sequence), p.cut).chunks;
  WaitForPrevious();
  const RegionRecord record = p.records[region];
  if (!p.region_per_head && record.sequence >= 0) {
    sequence = record.sequence;
    head = record.head;
    chunks = CutContext(VisibleTokens(p, sequence), p.cut).chunks;
  }
  if (chunks <= 1) return;

  float sum = 0.f, l = 0.f, max = kLowest;
  for (int base = 0; base < chunks; base += kBatch) {
    float next[kBatch];
    float2 state[kBatch / kWarp];
    const int64_t first = p.Slot(region, base);
    const int last = chunks - 1 - base;
#pragma unroll
    for (int i = 0; i < kBatch / kWarp; ++i)
      state[i] = __ldcg(p.states + (first + min(i * kWarp + lane, last)) * p.rows + row);
#pragma unroll
    for (int i = 0; i < kBatch; i += kGroup) {
      if (i > last) break;
#pragma unroll
      for (int j = i; j < i + kGroup; ++j)
        next[j] = __ldcg(p.partials + ((first + min(j, last)) * p.rows + row) * kE + threadIdx.x);
    }
    if (record.sequence < 0) return;
#pragma unroll
    for (int part = 0; part < kBatch; part += kWarp) {
      if (part > last) break;
      const int chunk = base + part + lane;
      const bool counts = chunk == 0 || (chunk >= record.folded && chunk < chunks);
      const float own_max = counts ? state[part / kWarp].x : kLowest;
      float upto = fmaxf(own_max, max);  // the maximum of this chunk and all before
      for (int step = 1; step < kWarp; step *= 2)
        upto = fmaxf(upto, __shfl_up_sync(~0u, upto, step));
      float before = __shfl_up_sync(~0u, upto, 1);
      if (lane == 0) before = max;
      const FoldFactors own = FactorsOf(before, own_max);
      max = __shfl_sync(~0u, upto, kWarp - 1);
      terms[part + lane] = {own.before, own.next, state[part / kWarp].y, counts ? 1.f : 0.f};
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (i % kGroup == 0 && i > last) break;
      const float4 term = terms[i];
      const FoldFactors f{0.f, term.x, term.y};
      // Without a branch, so that the reads of later terms need not wait.
      sum = term.w != 0.f ? Fold(sum, next[i], f) : sum;
      l = term.w != 0.f ? Fold(l, term.z, f) : l;
    }
    __syncwarp();
  }
  const int kv_head = head / p.parts, of_group = head % p.parts * p.rows + row;
  if (of_group >= p.group) return;
  const int64_t out_row = int64_t{sequence} * p.h + kv_head * p.group + of_group;
  static_cast<T*>(p.out)[out_row * kE + threadIdx.x] = FromFloat<T>(sum * (1.f / l));
}

}  // namespace tessera
