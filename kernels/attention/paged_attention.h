// Causal attention of a step's query rows over the paged KV cache: decode and prefill rows
// together.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/gemm/column_places.h"
#include "kernels/rope/rope_kv_write.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// When the CUDA op may read block_table and the cached tokens that are older than the step.
enum class CacheReads {
  // After all that is ahead in the stream.
  kInOrder,
  // As soon as its blocks start, which can be while kernels ahead still run. Right when, behind
  // whatever last wrote those, there was a call with kInOrder and decode sequences, or anything
  // that is no dependent launch (a copy, a graph's start). So of a step's layers the first reads in
  // order and the others early.
  kEarly,
};

// Sequence i of the step owns query rows [q_start[i], q_start[i + 1]); they are the last rows of
// its context[i] cached tokens, so row j of m attends to the first context[i] - m + j + 1 tokens.
// out = softmax(scale * q k^T) v, softmax in fp32. Query head j reads kv head j / (h / g).
// The cache layout is in rope_kv_write.h.
// The first `decode_sequences` sequences have exactly one row each, rows 0, 1, 2, ...; the rest
// follow. Decode rows come raw, as rows of `qkv`: the op does for them what rope_kv_write does for
// the others, their k and v included, which are written at kv_index. That must be where the block
// table has token context[i] - 1 (negative for padding sequences): else the row's result is
// unspecified.
// Rows of no sequence (from q_start[s] on) get zeros. What lies in the cache behind a context is
// never used.
// On CUDA the grid depends on the host sizes only (t, s, decode_sequences, max_context), so that a
// captured launch serves any contents of the device arrays; and results repeat bit for bit, and do
// not depend on what other sequences of the step hold (they can depend on decode_sequences).
// seq_slot, q_start, context and positions are read before the kernels ahead in the stream have
// finished: they must come from a copy, or from a kernel that cannot still be running then. Calls
// with decode sequences share device memory of the process: at most one stream runs them.
struct PagedAttentionArgs {
  const void* qkv = nullptr;  // [decode_sequences, (h + 2g) * e] of `dtype`: q, k, v heads, raw
  void* q = nullptr;  // [t, h, e] of `dtype`, device: rotated; rows of decode sequences are scratch
  void* k_cache = nullptr;  // [blocks, g, block_size, e] of `dtype`, device
  void* v_cache = nullptr;
  const int32_t* block_table = nullptr;  // [slots, max_blocks] device
  const int32_t* seq_slot =
      nullptr;  // [s] device: its row of block_table; negative: padding, rows get zeros
  const int32_t* q_start = nullptr;    // [s + 1] device
  const int32_t* context = nullptr;    // [s] device, tokens cached including this step's
  const int32_t* positions = nullptr;  // [decode_sequences] device
  const int64_t* kv_index = nullptr;   // [decode_sequences] device: block * block_size + offset;
                                       // outside the cache: no write
  HeadRotation rotation;
  CacheReads reads = CacheReads::kInOrder;
  void* out = nullptr;     // [t, h, e] of `dtype`; with an order, [t, order.width]
  ColumnPlaces out_order;  // of a row's h * e columns
  int64_t t = 0, s = 0, h = 0, g = 0, e = 0;
  int64_t decode_sequences = 0;
  int64_t block_size = 0, max_blocks = 0;
  int64_t blocks = 0;     // in the cache: a table entry beyond is clamped, never read out of bounds
  int64_t max_query = 0;  // host bound on a prefill sequence's rows; 0 when there is none
  int64_t max_context = 0;  // host bound on context[i], for choosing the split of the grid
  float scale = 0.f;        // positive
  DType dtype = DType::kF32;
  void* workspace = nullptr;  // PagedAttentionWorkspaceBytes() (paged_attention_config.h) or more
  int64_t workspace_bytes = 0;
};

// Enqueues on `stream`; never synchronises or allocates. t = 0 is a no-op.
// kInvalidArgument: negative size, h not a multiple of g, decode_sequences above s or t, one norm
// weight without the other, workspace too small, an order narrower than h * e or of a width that is
// no multiple of 16, 2^32 units of 16 cached tokens or more over
// sequences and kv heads (CUDA). kUnimplemented: e other than 32, 64, 128; block_size not a
// multiple of 16; dtype other than kF32 (CPU), kBf16, kF16 (CUDA).
absl::Status PagedAttentionCpu(const PagedAttentionArgs& args, const Stream& stream);
absl::Status PagedAttentionCuda(const PagedAttentionArgs& args, const Stream& stream);

}  // namespace tessera
