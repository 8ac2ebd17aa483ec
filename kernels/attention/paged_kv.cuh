// What the attention kernels know of the paged cache (its layout is in rope_kv_write.h).
#pragma once

#include <cstdint>

#include "kernels/attention/paged_attention.h"

namespace tessera {

// Tokens that a warp looks up and loads together; divides every block size.
constexpr int kKvRunTokens = 16;

struct PagedKv {
  const void *k, *v;
  const int32_t* block_table;
  int32_t kv_heads, block_size, max_blocks, blocks;
};

inline PagedKv PagedKvOf(const PagedAttentionArgs& a) {
  return {a.k_cache,
          a.v_cache,
          a.block_table,
          static_cast<int32_t>(a.g),
          static_cast<int32_t>(a.block_size),
          static_cast<int32_t>(a.max_blocks),
          static_cast<int32_t>(a.blocks)};
}

// The place of the 16 tokens from `token` (a multiple of 16) of a sequence, as a count of 16-token
// runs from the cache's start; table entries outside the cache are clamped into it.
__device__ __forceinline__ int32_t KvRun(const PagedKv& kv, int64_t slot, int kv_head, int token) {
  const int index = min(token / kv.block_size, kv.max_blocks - 1);
  // Past L1: a kernel that ran while this one was already waiting may have patched the table.
  const int entry = __ldcg(kv.block_table + slot * kv.max_blocks + index);
  const int block = min(max(entry, 0), kv.blocks - 1);
  const int runs = kv.block_size / kKvRunTokens;
  return (block * kv.kv_heads + kv_head) * runs + token % kv.block_size / kKvRunTokens;
}

// Where 16-byte piece `piece` of row `row` lies in a shared-memory tile of kE-element rows of
// 16-bit floats, in bytes. Eight rows at the same piece fall into different banks, so fragment
// loads do not conflict.
template <int kE>
__device__ __forceinline__ uint32_t SwizzledBytes(int row, int piece) {
  const int turn = kE >= 64 ? row & 7 : (row >> 1) & 3;
  return static_cast<uint32_t>(row * (kE * 2) + ((piece ^ turn) << 4));
}

}  // namespace tessera
