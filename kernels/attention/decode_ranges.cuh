// The decode kernel for any number of sequences.
#pragma once

#include "kernels/attention/decode_block.cuh"
#include "kernels/attention/decode_combine.cuh"
#include "kernels/attention/decode_schedule.cuh"
#include "kernels/device/launch.cuh"

namespace tessera {

template <int kE, int kTiles>
struct DecodeRangesShape {
  using Ring = DecodeRing<kE, 16>;
  static constexpr int kRingBytes = kDecodeWarps * Ring::kBytes;
  static constexpr int kSumFloats = 8 * kTiles * kSumStride<kE>;  // of a warp
  static constexpr int kSharedBytes = kRingBytes + kDecodeWarps * kSumFloats * 4;
};

// What is left to do at the end of a (sequence, head), or of the block's range within one: its
// output, or a share of it in scratch.
template <typename T, int kE, int kTiles>
__device__ __forceinline__ void EndRun(const DecodeParams& p, const BlockRange& range,
                                       const ChunkCursor& end, const DecodeRun& of, int saved,
                                       const RunState<kE, kTiles>& run) {
  const bool whole = saved == 0;  // `run` holds all chunks from the first on
  if (whole && end.chunk + 1 == end.cut.chunks) {
    SaveOutput<T, kE, kTiles>(p, run, of);
    return;
  }
  const int region = range.RegionOf(p, end);
  if (whole) {
    saved = end.chunk + 1;
    SavePartial<kE, kTiles>(p, run, of.rows, p.Slot(region, 0));
    if (threadIdx.x == 0) p.folded[region] = saved;
  }
  if (LastToSave(region, saved, end.cut.chunks))
    CombineRegion<T, kE, kTiles>(p, region, end.cut.chunks, of);
}

// Persistent blocks, each over an equal range of chunks (decode_schedule.cuh). In a chunk, warp w
// takes units w, w + kDecodeWarps, ... of 16 tokens, on its own: each warp loads its units into a
// ring of its own, ahead over chunk borders, and keeps its own softmax state. At the end of a chunk
// the warps' sums are added; chunks from a context's first on are added up in registers, others go
// to scratch. Cached tokens are on their way before the kernels ahead have finished.
// Grid: layout.blocks, block kDecodeThreads, shared memory: rings, then the warps' sums.
template <typename T, int kE, int kTiles>
__global__ void __launch_bounds__(kDecodeThreads, DecodeLayout::kBlocksPerSm)
    DecodeRangesKernel(const __grid_constant__ DecodeParams p) {
  using Shape = DecodeRangesShape<kE, kTiles>;
  extern __shared__ __align__(128) char rings[];
  __shared__ WarpStates<8 * kTiles> states;
  __shared__ RotationTable<kE, kTiles> table;
  if (p.early) LetNextStart();
  const BlockRange range = FindBlockRange<kDecodeThreads>(p);
  const bool busy = range.Holds(p, range.first);
  const int warp_index = threadIdx.x / kWarp;
  table.FillNorms(p);
  if (busy) table.FillTurn(p, range.first.sequence, 0);
  DecodeWarp<T, kE, kTiles, RangeLoader<kE, typename Shape::Ring>> warp(
      p, range, table, rings + warp_index * Shape::Ring::kBytes);
  if (!p.early) {
    WaitForPrevious();
    LetNextStart();
  }
  if (busy) warp.BeginLoads();
  if (p.early) WaitForPrevious();
  if (!busy) {
    SaveZeros(p);
    return;
  }
  ChunkCursor at = range.first;
  DecodeRun of = RunAt(p, at);
  warp.Fetch(at, of);
  SaveZeros(p);
  __syncthreads();
  warp.Rotate(0);
  __syncthreads();
  warp.LoadQuery();
  auto* const sums = reinterpret_cast<float*>(rings + Shape::kRingBytes);
  RunState<kE, kTiles> run;
  int saved = 0, which = 0;  // chunks of the context at hand that went to scratch
  bool whole = at.chunk == 0;
  while (true) {
    warp.Attend(at);
    warp.WriteNewest();
    const ChunkCursor done = at;
    const DecodeRun done_of = of;
    const int warps = min(done.Units(), kDecodeWarps);
    if (warp_index < warps)
      warp.Publish(done_of.rows, sums + warp_index * Shape::kSumFloats, states[warp_index]);
    at.Advance(p);
    const bool more = range.Holds(p, at), next_query = more && at.chunk == 0;
    if (next_query) {  // comes while the warps' sums are added up
      of = RunAt(p, at);
      warp.Fetch(at, of);
      if (at.sequence != done.sequence) table.FillTurn(p, at.sequence, which ^= 1);
    }
    __syncthreads();
    const RunState<kE, kTiles> chunk =
        SumWarps<kE, kTiles>(sums, Shape::kSumFloats, warps, done_of.rows, states);
    if (next_query) warp.Rotate(which);
    __syncthreads();
    if (next_query) warp.LoadQuery();
    if (!whole) {
      SavePartial<kE, kTiles>(p, chunk, done_of.rows, p.Slot(range.RegionOf(p, done), done.chunk));
      ++saved;
    } else if (done.chunk == 0) {
      run = chunk;
    } else {
      AddChunk<kE, kTiles>(chunk, run);
    }
    const bool last = done.chunk + 1 == done.cut.chunks;
    if (last || !more) EndRun<T, kE, kTiles>(p, range, done, done_of, saved, run);
    if (!more) break;
    if (last) {
      whole = true;
      saved = 0;
    }
  }
}

}  // namespace tessera
