// Which chunks of which contexts a block of the decode kernel takes: all chunks in the order
// (sequence, head, chunk), cut into consecutive ranges of equal cost. Every thread of every block
// computes it from `context`.
#pragma once

#include <cstdint>

#include "kernels/attention/attention_out.cuh"
#include "kernels/attention/paged_attention_config.h"
#include "kernels/attention/paged_kv.cuh"
#include "kernels/device/reduce.cuh"
#include "kernels/rope/rope_kv_write.h"

namespace tessera {

constexpr int kDecodeWarps = 4;
constexpr int kDecodeThreads = kDecodeWarps * kWarp;

struct DecodeParams {
  PagedKv kv;
  const void* qkv;  // raw rows, one for each sequence
  void *k_cache, *v_cache;
  AttentionOut out;
  const int32_t *seq_slot, *context, *positions;
  const int64_t* kv_index;
  HeadRotation rotation;
  float* partials;  // [regions, max_chunks, rows, e]: sums of chunks, not yet divided
  float2* states;   // [regions, max_chunks, rows]: their maximum (base 2) and denominator
  int32_t* folded;  // [regions]: chunks [0, folded) are summed in slot 0 of the region
  int32_t sequences, zero_rows;  // zero_rows follow the sequences' rows
  int32_t h, group, parts, rows, heads;
  uint32_t blocks_per_sm;  // divides the grid
  bool region_per_head;    // else one for each block
  bool early;              // CacheReads::kEarly
  CutRule cut;
  float scale_log2;  // scale * log2(e)

  __device__ __forceinline__ int64_t Slot(int region, int chunk) const {
    return int64_t{region} * cut.max_chunks + chunk;
  }
};

__device__ __forceinline__ int VisibleTokens(const DecodeParams& p, int sequence) {
  if (p.seq_slot[sequence] < 0) return 0;
  const int64_t most = int64_t{p.kv.max_blocks} * p.kv.block_size;
  const int64_t tokens = p.context[sequence];
  return static_cast<int>(tokens < 0 ? 0 : tokens < most ? tokens : most);
}

// One chunk of one head of one sequence.
struct ChunkCursor {
  int sequence = 0, head = 0, chunk = 0;
  int tokens = 0;            // the sequence's context
  uint32_t head_offset = 0;  // work before the head
  ContextCut cut;

  __device__ __forceinline__ uint32_t Offset() const { return head_offset + cut.Offset(chunk); }
  __device__ __forceinline__ int FirstUnit() const { return chunk * cut.chunk_units; }
  __device__ __forceinline__ int Units() const {
    return min(cut.chunk_units, cut.units - FirstUnit());
  }
  // Reads the sequence at or after `sequence` that has any context.
  __device__ __forceinline__ void Enter(const DecodeParams& p) {
    for (; sequence < p.sequences; ++sequence) {
      tokens = VisibleTokens(p, sequence);
      if (tokens == 0) continue;
      cut = CutContext(tokens, p.cut);
      return;
    }
  }
  __device__ __forceinline__ void Advance(const DecodeParams& p) {
    if (++chunk < cut.chunks) return;
    chunk = 0;
    head_offset += cut.Cost();
    if (++head < p.heads) return;
    head = 0;
    ++sequence;
    Enter(p);
  }
};

// The query rows of a (sequence, head), which are heads of the sequence, and their kv head.
struct DecodeRun {
  int sequence, first_head;
  int rows, kv_head;
};
__device__ __forceinline__ DecodeRun RunAt(const DecodeParams& p, const ChunkCursor& at) {
  const int kv_head = at.head / p.parts, first = at.head % p.parts * p.rows;
  return {at.sequence, kv_head * p.group + first, min(p.rows, p.group - first), kv_head};
}

struct BlockRange {
  ChunkCursor first;
  uint32_t end = 0;   // the range holds chunks that start before this
  uint32_t size = 1;  // of each block's range

  __device__ __forceinline__ bool Holds(const DecodeParams& p, const ChunkCursor& at) const {
    return at.sequence < p.sequences && at.Offset() < end;
  }
  // The scratch of the cursor's (sequence, head).
  __device__ __forceinline__ int RegionOf(const DecodeParams& p, const ChunkCursor& at) const {
    if (p.region_per_head) return at.sequence * p.heads + at.head;
    // The block whose range holds that chunk.
    return static_cast<int>(at.head_offset / size);
  }
};

// The range of this block. All kThreads threads take part.
template <int kThreads>
__device__ __forceinline__ BlockRange FindBlockRange(const DecodeParams& p) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ uint32_t scratch[kWarps];
  __shared__ uint32_t found_offset;
  __shared__ int found;
  const int thread = threadIdx.x;
  const auto work_of = [&](int sequence) {
    if (sequence >= p.sequences) return 0u;
    return CutContext(VisibleTokens(p, sequence), p.cut).Cost() * p.heads;
  };
  const uint32_t own = work_of(thread);
  uint32_t total = own;
  for (int i = thread + kThreads; i < p.sequences; i += kThreads) total += work_of(i);
  total = BlockReduce<SumOp, kThreads>(total, scratch);
  BlockRange range;
  range.size = max(1u, (total + gridDim.x - 1) / gridDim.x);
  // Blocks that share a multiprocessor, by the usual order of launch, take neighbouring ranges:
  // what one has too much, from rounding to whole chunks, another has too little.
  const uint32_t columns = gridDim.x / p.blocks_per_sm;
  const uint32_t begin =
      range.size * (blockIdx.x % columns * p.blocks_per_sm + blockIdx.x / columns);
  range.end = min(total, begin + range.size);
  range.first.sequence = p.sequences;
  if (begin >= range.end) return range;

  uint32_t before = 0;
  for (int base = 0; base < p.sequences && before <= begin; base += kThreads) {
    const uint32_t work = base == 0 ? own : work_of(base + thread);
    uint32_t upto = work;
    for (int step = 1; step < kWarp; step *= 2) {
      const uint32_t left = __shfl_up_sync(~0u, upto, step);
      if (thread % kWarp >= step) upto += left;
    }
    __syncthreads();
    if (thread % kWarp == kWarp - 1) scratch[thread / kWarp] = upto;
    __syncthreads();
    upto += before;
    for (int i = 0; i < kWarps; ++i) {
      if (i < thread / kWarp) upto += scratch[i];
      before += scratch[i];
    }
    if (upto - work <= begin && begin < upto) {
      found = base + thread;
      found_offset = upto - work;
    }
  }
  __syncthreads();
  ChunkCursor& first = range.first;
  first.sequence = found;
  first.Enter(p);
  const uint32_t cost = first.cut.Cost(), chunk_cost = first.cut.Offset(1);
  const uint32_t head = (begin - found_offset) / cost;
  first.head = static_cast<int>(head);
  first.head_offset = found_offset + head * cost;
  first.chunk = static_cast<int>((begin - first.head_offset + chunk_cost - 1) / chunk_cost);
  if (first.chunk >= first.cut.chunks) {
    first.chunk = first.cut.chunks - 1;
    first.Advance(p);
  }
  return range;
}

}  // namespace tessera
