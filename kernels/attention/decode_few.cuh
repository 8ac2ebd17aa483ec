// The decode kernel for few sequences: latency is all, so every chunk has a block of its own, all
// of them at once, and the blocks of a (sequence, head), a pair below, add up its chunks together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/attention/decode_block.cuh"
#include "kernels/attention/decode_schedule.cuh"
#include "kernels/attention/paged_attention_config.h"
#include "kernels/device/launch.cuh"

namespace tessera {

// Four elements of a chunk's sum, with the maximum and denominator of their row. A word of 0 has
// not arrived: a sum of 0 is sent as -0. So a reader needs no other sign that a chunk is there, and
// what was sent needs no fence.
struct SentPiece {
  float4 sum;
  float2 state, unused;
};
constexpr int kMaxPieces = DecodeLayout::kMaxRows * 128 / 4;
// All zero whenever no decode kernel runs: who reads a piece clears it.
__device__ SentPiece sent_pieces[kMaxPieces * DecodeLayout::kMaxFewBlocks];

// The chunks of a piece lie side by side, since they are read together.
__device__ __forceinline__ SentPiece* PieceAt(const DecodeParams& p, int pair, int piece,
                                              int chunk) {
  return sent_pieces + (pair * kMaxPieces + piece) * p.cut.max_chunks + chunk;
}

__device__ __forceinline__ float Sendable(float x) { return __float_as_uint(x) == 0 ? -0.f : x; }
__device__ __forceinline__ void SendPiece(SentPiece* to, const float4& sum, const float2& state) {
  asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(&to->sum),
               "f"(Sendable(sum.x)), "f"(Sendable(sum.y)), "f"(Sendable(sum.z)),
               "f"(Sendable(sum.w))
               : "memory");
  asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1,%2};" ::"l"(&to->state),
               "f"(Sendable(state.x)), "f"(Sendable(state.y))
               : "memory");
}
__device__ __forceinline__ bool TryReceive(const SentPiece* from, float4& sum, float2& state) {
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(sum.x), "=f"(sum.y), "=f"(sum.z), "=f"(sum.w)
               : "l"(&from->sum)
               : "memory");
  asm volatile("ld.relaxed.gpu.global.v2.f32 {%0,%1}, [%2];"
               : "=f"(state.x), "=f"(state.y)
               : "l"(&from->state)
               : "memory");
  const auto there = [](float x) { return __float_as_uint(x) != 0; };
  return there(sum.x) && there(sum.y) && there(sum.z) && there(sum.w) && there(state.x) &&
         there(state.y);
}

// Sums of four elements of a row, relative to 2^state.x, with their denominator.
struct Slice {
  float4 sum = {};
  float2 state = {std::numeric_limits<float>::lowest(), 0.f};
};

// Brings `slice` to a maximum that is no smaller than its own.
__device__ __forceinline__ void RaiseMax(Slice& slice, float max) {
  const float factor = Exp2(slice.state.x - max);
  slice.sum = {slice.sum.x * factor, slice.sum.y * factor, slice.sum.z * factor,
               slice.sum.w * factor};
  slice.state = {max, slice.state.y * factor};
}
__device__ __forceinline__ void AddAtSameMax(const Slice& other, Slice& slice) {
  slice.sum = {slice.sum.x + other.sum.x, slice.sum.y + other.sum.y, slice.sum.z + other.sum.z,
               slice.sum.w + other.sum.w};
  slice.state.y += other.state.y;
}

// Waits for chunks from[0], from[stride], ... of a piece, up to kBatch of them and below `left`,
// clears them, and adds them to `slice` in order.
template <int kBatch>
__device__ __forceinline__ void ReceiveChunks(SentPiece* from, int stride, int left, Slice& slice) {
  Slice chunks[kBatch];
  bool waits = true;
  while (waits) {
    waits = false;
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (i * stride < left)
        waits |= !TryReceive(from + i * stride, chunks[i].sum, chunks[i].state);
  }
  float max = slice.state.x;
#pragma unroll
  for (int i = 0; i < kBatch; ++i) max = fmaxf(max, chunks[i].state.x);
  RaiseMax(slice, max);
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    RaiseMax(chunks[i], max);
    AddAtSameMax(chunks[i], slice);
    if (i * stride < left) {
      from[i * stride].sum = {};
      from[i * stride].state = {};
    }
  }
}

// Block `chunk` of a pair's writes every chunks-th piece of its output, from number `chunk` on. A
// power of two of lanes shares a piece: lane i receives chunks i, i + lanes, ... and adds them up,
// then the lanes add pairwise. The blocks of the pair wait for each other here, so all must be
// resident at once (LaunchDecode in decode_attention.cu).
template <typename T, int kE>
__device__ __forceinline__ void CombineSlices(const DecodeParams& p, int pair,
                                              const ChunkCursor& at, const DecodeRun& of) {
  constexpr int kBatch = 4;  // chunks under way at once to a lane
  const int chunks = at.cut.chunks, pieces = of.rows * (kE / 4);
  int lanes = 1;
  while (lanes < kWarp && lanes * kBatch < chunks) lanes *= 2;
  const int lane = threadIdx.x % lanes, stride = kDecodeThreads / lanes * chunks;
  const int first = at.chunk + static_cast<int>(threadIdx.x) / lanes * chunks;
  // All lanes of a warp make the same passes, for the shuffles.
  for (int base = 0; base + at.chunk < pieces; base += stride) {
    const int piece = base + first;
    Slice slice;
    for (int next = lane; piece < pieces && next < chunks; next += lanes * kBatch)
      ReceiveChunks<kBatch>(PieceAt(p, pair, piece, next), lanes, chunks - next, slice);
    float max = slice.state.x;
    for (int step = 1; step < lanes; step *= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, step));
    RaiseMax(slice, max);
    for (int step = 1; step < lanes; step *= 2) {
      Slice other;
      other.sum = {__shfl_xor_sync(~0u, slice.sum.x, step), __shfl_xor_sync(~0u, slice.sum.y, step),
                   __shfl_xor_sync(~0u, slice.sum.z, step),
                   __shfl_xor_sync(~0u, slice.sum.w, step)};
      other.state.y = __shfl_xor_sync(~0u, slice.state.y, step);
      AddAtSameMax(other, slice);
    }
    if (piece < pieces && lane == 0)
      SavePiece<T, kE>(p, of, piece / (kE / 4), piece % (kE / 4), slice.sum, slice.state.y);
  }
}

template <int kE, int kTiles>
struct DecodeFewShape {
  using Ring = DecodeRing<kE, 8>;
  // Of a warp: its ring, then its sums in the same place.
  static constexpr int kWarpBytes = std::max(Ring::kBytes, 8 * kTiles * kSumStride<kE> * 4);
  static constexpr int kSharedBytes = kDecodeWarps * kWarpBytes;
};

// Block b takes chunk b / pairs of a pair; those past its context's chunks leave at once. As in
// decode_ranges.cuh, each warp has its own units, ring and softmax state, and cached tokens are on
// their way before the kernels ahead have finished: up to 64 tokens a block (e = 128) are there
// when the query comes. Small enough to sit beside the blocks of the kernels around it. Grid pairs
// * max_chunks, block kDecodeThreads, shared memory: DecodeFewShape.
template <typename T, int kE, int kTiles>
__global__ void __launch_bounds__(kDecodeThreads, DecodeLayout::kFewBlocksPerSm)
    DecodeFewKernel(const __grid_constant__ DecodeParams p) {
  using Shape = DecodeFewShape<kE, kTiles>;
  extern __shared__ __align__(128) char rings[];
  __shared__ WarpStates<8 * kTiles> states;
  __shared__ RotationTable<kE, kTiles> table;
  if (p.early) LetNextStart();
  const int pairs = p.sequences * p.heads, block = static_cast<int>(blockIdx.x);
  ChunkCursor at;
  at.chunk = block / pairs;
  // Turned from chunk to chunk, so that blocks of one multiprocessor have different sequences.
  const int pair = (block + at.chunk) % pairs;
  at.sequence = pair % p.sequences;
  at.head = pair / p.sequences;
  at.tokens = VisibleTokens(p, at.sequence);
  at.cut = CutContext(at.tokens, p.cut);
  const bool busy = at.chunk < at.cut.chunks;
  if (!busy && block >= p.sequences + p.zero_rows) return;
  const int warp_index = threadIdx.x / kWarp;
  char* const ring = rings + warp_index * Shape::kWarpBytes;
  DecodeWarp<T, kE, kTiles, ChunkLoader<kE, typename Shape::Ring>> warp(p, at, table, ring);
  if (!p.early) {
    WaitForPrevious();
    LetNextStart();
  }
  if (busy) {
    warp.BeginLoads();
    table.FillNorms(p);
    table.FillTurn(p, at.sequence, 0);
  }
  __syncthreads();
  if (p.early) WaitForPrevious();
  if (!busy) {
    SaveZeros(p);
    return;
  }
  const DecodeRun of = RunAt(p, at);
  warp.Fetch(at, of);
  warp.Rotate(0);
  __syncthreads();
  warp.LoadQuery();
  warp.Attend(at);
  const int warps = min(at.Units(), kDecodeWarps);
  if (warp_index < warps) warp.Publish(of.rows, reinterpret_cast<float*>(ring), states[warp_index]);
  __syncthreads();
  const RunState<kE, kTiles> chunk = SumWarps<kE, kTiles>(
      reinterpret_cast<const float*>(rings), Shape::kWarpBytes / 4, warps, of.rows, states);
  if (at.cut.chunks == 1) {
    SaveOutput<T, kE, kTiles>(p, chunk, of);
  } else {
    ForPieces<kE, kTiles>(of.rows, [&](int i, int row, int column) {
      SendPiece(PieceAt(p, pair, row * (kE / 4) + column, at.chunk), chunk.sum[i], chunk.state[i]);
    });
  }
  warp.WriteNewest();
  SaveZeros(p);
  if (at.cut.chunks > 1) CombineSlices<T, kE>(p, pair, at, of);
}

}  // namespace tessera
