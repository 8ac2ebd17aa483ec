// One query row against one kv head of the paged cache, the core of PagedAttentionCpu.
#pragma once

#include <cstdint>

namespace tessera {

// out[i] = softmax(scale * q[i] k^T) v over tokens [0, context), i in [0, heads), all fp32.
// Tokens are taken 16 at a time in rising order with a running maximum, so that a result depends
// on its q head, the cached values and `context` only.
struct AttendRowArgs {
  const float* q = nullptr;        // [heads, e]
  float* out = nullptr;            // [heads, e]
  const float* k_cache = nullptr;  // the kv head's first token in block 0
  const float* v_cache = nullptr;
  const int32_t* blocks = nullptr;  // the sequence's row of the block table
  int64_t heads = 0;                // query heads that read this kv head
  int64_t e = 0;                    // a multiple of 16, at most 128
  int64_t context = 0;              // at least 1 and at most max_blocks * block_size
  int64_t block_size = 0;           // a multiple of 16
  int64_t block_stride = 0;         // elements from one block to the next
  int64_t block_count = 0;          // blocks in the cache; table entries are clamped to it
  float scale = 0.f;
};

// The fastest version for this machine's vector width (AVX-512, AVX2 with FMA, or the build's
// default).
using AttendRowFn = void (*)(const AttendRowArgs&);
AttendRowFn AttendRowForThisCpu();

}  // namespace tessera
