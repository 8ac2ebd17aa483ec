// Per-head q/k norm, rotary embedding and the write of k and v into the paged cache, in one pass.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// What turns a head of q or k into what attention compares: RMS norm over e (where the family has
// one), then rotation by half (x[j], x[j + e/2]) with angle position * inv_freq[j] in fp32, cos and
// sin times `scale`.
struct HeadRotation {
  const float* inv_freq = nullptr;  // [e / 2] device
  float scale = 1.f;                // YaRN's attention factor; 1 otherwise
  const void* q_norm = nullptr;     // [e] of the op's dtype, or null (both or none)
  const void* k_norm = nullptr;     // [e]
  float norm_eps = 0.f;
};

// Cache layout, for k and v alike: [blocks, g, block_size, e]; token `j` of block `b`, kv head `i`
// is at ((b * g + i) * block_size + j) * e.
//
// For each token i of [0, t): q and k heads are normalised and rotated; q goes to q_out, k and v
// into the cache at kv_index[i].
struct RopeKvWriteArgs {
  const void* qkv = nullptr;           // [t, (h + 2g) * e] of `dtype`: q heads, k heads, v heads
  const int32_t* positions = nullptr;  // [t] device
  const int64_t* kv_index = nullptr;  // [t] device: block * block_size + offset; negative: no write
  HeadRotation rotation;
  void* q_out = nullptr;    // [t, h, e] of `dtype`
  void* k_cache = nullptr;  // of `dtype`
  void* v_cache = nullptr;
  int64_t t = 0, h = 0, g = 0, e = 0, block_size = 0;
  int64_t cache_tokens = 0;  // blocks * block_size: an index beyond is dropped, never written
  DType dtype = DType::kF32;
};

// Enqueues on `stream`. kInvalidArgument: negative size, one norm weight without the other.
// kUnimplemented: e other than 32, 64, 128; dtype other than kF32 (CPU), kBf16, kF16 (CUDA).
absl::Status RopeKvWriteCpu(const RopeKvWriteArgs& args, const Stream& stream);
absl::Status RopeKvWriteCuda(const RopeKvWriteArgs& args, const Stream& stream);

}  // namespace tessera
