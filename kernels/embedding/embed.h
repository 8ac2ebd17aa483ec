// Token embedding from a shard of the vocabulary.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// y[i] = table[tokens[i] - first_row] converted to `dtype`; zeros for tokens outside this shard's
// rows [first_row, first_row + rows), so that the sum over shards is the embedding.
struct EmbedArgs {
  const int32_t* tokens = nullptr;  // [t] device
  const void* table = nullptr;      // [rows, d] of `table_dtype`, device
  void* y = nullptr;                // [t, d] of `dtype`, device
  int64_t t = 0, d = 0, first_row = 0, rows = 0;
  DType dtype = DType::kF32;
  DType table_dtype = DType::kF32;  // CPU: any float type; CUDA: `dtype`
};

// Enqueues on `stream`. kInvalidArgument: negative size or d not a multiple of 8 (CUDA).
// kUnimplemented: a dtype combination other than those above.
absl::Status EmbedCpu(const EmbedArgs& args, const Stream& stream);
absl::Status EmbedCuda(const EmbedArgs& args, const Stream& stream);

}  // namespace tessera
