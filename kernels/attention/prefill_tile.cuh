// Which query rows a block of a prefill kernel takes. The query heads of a kv head are packed into
// the rows of a tile: packed row R of a sequence is query head R % group of its token R / group, so
// that a block reads keys and values once for the whole group.
#pragma once

#include <cstdint>
#include <numbers>

#include "kernels/attention/attention_out.cuh"
#include "kernels/attention/paged_attention.h"
#include "kernels/attention/paged_kv.cuh"
#include "kernels/device/reduce.cuh"

namespace tessera {

// Division of numbers below 2^31 by a number chosen on the host, without the 100 cycles of a
// division (Granlund and Montgomery 1994, figure 4.1).
struct Divisor {
  int32_t value = 1;
  int32_t shift = 0;
  uint32_t factor = 1;

  static Divisor Of(int32_t value) {
    Divisor d;
    d.value = value;
    while ((int64_t{1} << d.shift) < value) ++d.shift;
    const uint64_t over = (uint64_t{1} << d.shift) - static_cast<uint64_t>(value);
    d.factor = static_cast<uint32_t>((over << 32) / static_cast<uint64_t>(value) + 1);
    return d;
  }
  __device__ __forceinline__ int Quotient(int n) const {
    const auto dividend = static_cast<uint32_t>(n);
    return static_cast<int>((__umulhi(dividend, factor) + dividend) >> shift);
  }
};

struct PrefillParams {
  PagedKv kv;
  const void* q;
  AttentionOut out;
  const int32_t *seq_slot, *q_start, *context;
  int32_t first_sequence, sequences;  // [first, sequences) are prefill
  int32_t t, h;
  Divisor group;     // query heads of a kv head
  float scale_log2;  // scale * log2(e)
};

inline PrefillParams PrefillParamsOf(const PagedAttentionArgs& a) {
  PrefillParams p{};
  p.kv = PagedKvOf(a);
  p.q = a.q;
  p.out = AttentionOutOf(a);
  p.seq_slot = a.seq_slot;
  p.q_start = a.q_start;
  p.context = a.context;
  p.first_sequence = static_cast<int32_t>(a.decode_sequences);
  p.sequences = static_cast<int32_t>(a.s);
  p.t = static_cast<int32_t>(a.t);
  p.h = static_cast<int32_t>(a.h);
  p.group = Divisor::Of(static_cast<int32_t>(a.h / a.g));
  p.scale_log2 = a.scale * std::numbers::log2e_v<float>;
  return p;
}

struct PrefillTile {
  int sequence = -1;  // none: grids are upper bounds
  int kv_head = 0;
  int first_row = 0;  // packed
  int rows = 0;       // packed rows of the sequence
  int q_row = 0;      // the sequence's first row of q
  int slot = 0;       // negative: padding
  int before = 0;     // cached tokens ahead of the sequence's first row; may be negative
  int limit = 0;      // tokens in the block table

  // Tokens that packed row `row` attends to.
  __device__ __forceinline__ int Visible(int row, const Divisor& group) const {
    return min(max(before + group.Quotient(row) + 1, 0), limit);
  }
};

// Tile `index` of those of `heads` kv heads from `first_head` on; none (sequence -1) past the last.
// Tiles are dealt from the last back: a sequence's last rows see most context, and what starts last
// should be short. Every thread of a warp takes part and gets the result.
template <int kRows>
__device__ __forceinline__ PrefillTile FindPrefillTile(const PrefillParams& p, int first_head,
                                                       int heads, int index) {
  const int lane = threadIdx.x % kWarp;
  PrefillTile tile;
  tile.kv_head = first_head + index % heads;
  int rank = index / heads;
  for (int base = p.sequences - 1; base >= p.first_sequence; base -= kWarp) {
    const int sequence = base - lane;
    int start = 0, rows = 0;
    if (sequence >= p.first_sequence) {
      start = p.q_start[sequence];
      rows = max(p.q_start[sequence + 1] - start, 0) * p.group.value;
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
    tile.before = p.context[tile.sequence] - p.group.Quotient(tile.rows);
    const int64_t most = int64_t{p.kv.max_blocks} * p.kv.block_size;
    tile.limit = tile.slot < 0 ? 0 : static_cast<int>(most < INT32_MAX ? most : INT32_MAX);
    return tile;
  }
  return tile;
}

// Zeros for the rows of q behind the last sequence's.
template <int kThreads>
__device__ __forceinline__ void ZeroTailRows(const PrefillParams& p) {
  for (int row = p.q_start[p.sequences] + static_cast<int>(blockIdx.x); row < p.t;
       row += static_cast<int>(gridDim.x))
    p.out.StoreZeros(row, static_cast<int>(threadIdx.x), kThreads);
}

}  // namespace tessera
