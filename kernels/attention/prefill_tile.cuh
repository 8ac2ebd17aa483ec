// Which query rows a block of a prefill kernel takes. The query heads of a kv head are packed into
// the rows of a tile: packed row R of a sequence is query head R % group of its token R / group, so
// that a block reads keys and values once for the whole group.
#pragma once

#include <cstdint>

#include "kernels/attention/paged_kv.cuh"
#include "kernels/device/reduce.cuh"

namespace tessera {

struct PrefillParams {
  PagedKv kv;
  const void* q;
  void* out;
  const int32_t *seq_slot, *q_start, *context;
  int32_t first_sequence, sequences;  // [first, sequences) are prefill
  int32_t t, h, group;
  float scale_log2;  // scale * log2(e)
};

struct PrefillTile {
  int sequence = -1;  // none: the grid is an upper bound
  int kv_head = 0;
  int first_row = 0;  // packed
  int rows = 0;       // packed rows of the sequence
  int q_row = 0;      // the sequence's first row of q
  int slot = 0;       // negative: padding
  int before = 0;     // cached tokens ahead of the sequence's first row; may be negative
  int limit = 0;      // tokens in the block table

  // Tokens that packed row `row` attends to.
  __device__ __forceinline__ int Visible(int row, int group) const {
    return min(max(before + row / group + 1, 0), limit);
  }
};

// The tile of this block. Tiles are dealt from the last back: a sequence's last rows see most
// context, and what starts last should be short. Every thread of a warp takes part and gets the
// result.
template <int kRows>
__device__ __forceinline__ PrefillTile FindPrefillTile(const PrefillParams& p) {
  const int lane = threadIdx.x % kWarp;
  PrefillTile tile;
  tile.kv_head = static_cast<int>(blockIdx.x) % p.kv.kv_heads;
  int rank = static_cast<int>(blockIdx.x) / p.kv.kv_heads;
  for (int base = p.sequences - 1; base >= p.first_sequence; base -= kWarp) {
    const int sequence = base - lane;
    int start = 0, rows = 0;
    if (sequence >= p.first_sequence) {
      start = p.q_start[sequence];
      rows = max(p.q_start[sequence + 1] - start, 0) * p.group;
    }
    const int tiles = (rows + kRows - 1) / kRows;
    int upto = tiles;
    for (int step = 1; step < kWarp; step *= 2) {
      const int left = __shfl_up_sync(~0u, upto, step);
      if (lane >= step) upto += left;
    }
    const unsigned holds = __ballot_sync(~0u, rank < upto);
    if (holds == 0) {
      rank -= __shfl_sync(~0u, upto, kWarp - 1);
      continue;
    }
    const int owner = __ffs(static_cast<int>(holds)) - 1;
    tile.sequence = base - owner;
    tile.rows = __shfl_sync(~0u, rows, owner);
    tile.q_row = __shfl_sync(~0u, start, owner);
    tile.first_row = (__shfl_sync(~0u, upto, owner) - 1 - rank) * kRows;
    tile.slot = p.seq_slot[tile.sequence];
    tile.before = p.context[tile.sequence] - tile.rows / p.group;
    const int64_t most = int64_t{p.kv.max_blocks} * p.kv.block_size;
    tile.limit = tile.slot < 0 ? 0 : static_cast<int>(most < INT32_MAX ? most : INT32_MAX);
    return tile;
  }
  return tile;
}

// Zeros for the rows of q behind the last sequence's.
template <int kE, int kThreads>
__device__ __forceinline__ void ZeroTailRows(const PrefillParams& p) {
  const int pieces = p.h * kE / 8;
  for (int row = p.q_start[p.sequences] + static_cast<int>(blockIdx.x); row < p.t;
       row += static_cast<int>(gridDim.x))
    for (int i = threadIdx.x; i < pieces; i += kThreads)
      static_cast<uint4*>(p.out)[int64_t{row} * pieces + i] = {};
}

}  // namespace tessera
