// Adding the sums of a context's chunks, in their order: in registers for the chunks that one block
// has from the context's first on, else by the last of its blocks to finish. Both use the same
// operations, so that the result does not show which block did what.
#pragma once

#include <cstdint>

#include "kernels/attention/decode_block.cuh"
#include "kernels/attention/decode_schedule.cuh"
#include "kernels/device/mma.cuh"

namespace tessera {

// Chunks of each region that have been saved. All zero whenever no decode kernel runs: the block
// that adds up a region's chunks clears its counter.
constexpr int kMaxRegions = 4096;
__device__ int32_t saved_chunks[kMaxRegions];

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

// sum, state = those followed by a chunk.
__device__ __forceinline__ void AddPiece(const float4& chunk_sum, const float2& chunk_state,
                                         float4& sum, float2& state) {
  const FoldFactors f = FactorsOf(state.x, chunk_state.x);
  sum = {Fold(sum.x, chunk_sum.x, f), Fold(sum.y, chunk_sum.y, f), Fold(sum.z, chunk_sum.z, f),
         Fold(sum.w, chunk_sum.w, f)};
  state = {f.max, Fold(state.y, chunk_state.y, f)};
}

template <int kE, int kTiles>
__device__ __forceinline__ void AddChunk(const RunState<kE, kTiles>& chunk,
                                         RunState<kE, kTiles>& run) {
#pragma unroll
  for (int i = 0; i < RunState<kE, kTiles>::kVecs; ++i)
    AddPiece(chunk.sum[i], chunk.state[i], run.sum[i], run.state[i]);
}

template <int kE, int kTiles>
__device__ __forceinline__ void SavePartial(const DecodeParams& p,
                                            const RunState<kE, kTiles>& state, int rows,
                                            int64_t slot) {
  const int64_t at = slot * p.rows;
  ForPieces<kE, kTiles>(rows, [&](int i, int row, int column) {
    reinterpret_cast<float4*>(p.partials)[(at + row) * (kE / 4) + column] = state.sum[i];
    if (column == 0) p.states[at + row] = state.state[i];
  });
}

// Says that the block has saved `count` more chunks of the region. True for all threads of the
// block that saved the last of `total`, which then sees what the others saved.
__device__ __forceinline__ bool LastToSave(int region, int count, int total) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(&saved_chunks[region], count) + count == total;
    if (last) saved_chunks[region] = 0;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

// The output of a region, all of whose chunks have been saved.
template <typename T, int kE, int kTiles>
__device__ __forceinline__ void CombineRegion(const DecodeParams& p, int region, int chunks,
                                              const DecodeRun& of) {
  constexpr int kBatch = 8;  // loads under way at once
  const int folded = __ldcg(p.folded + region);
  ForPieces<kE, kTiles>(of.rows, [&](int, int row, int column) {
    const auto sum_at = [&](int chunk) {
      const int64_t at = p.Slot(region, chunk) * p.rows + row;
      return __ldcg(reinterpret_cast<const float4*>(p.partials) + at * (kE / 4) + column);
    };
    const auto state_at = [&](int chunk) {
      return __ldcg(p.states + p.Slot(region, chunk) * p.rows + row);
    };
    float4 sum = sum_at(0);
    float2 state = state_at(0);
    for (int base = folded; base < chunks; base += kBatch) {
      float4 sums[kBatch];
      float2 states[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        sums[i] = sum_at(min(base + i, chunks - 1));
        states[i] = state_at(min(base + i, chunks - 1));
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
        if (base + i < chunks) AddPiece(sums[i], states[i], sum, state);
    }
    SavePiece<T, kE>(p, of, row, column, sum, state.y);
  });
}

}  // namespace tessera
