// Turns a step plan in device memory into what the ops of the step read.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "kernels/runtime/stream.h"

namespace tessera {

// First, each patch (slot, index, block) sets block_table[slot, index] = block; a patch outside the
// table is dropped, and no two patches of a step name the same place. Then, per token i:
//   token_ids[i] = token_source[i] if that is >= 0, else last_ids[-1 - token_source[i]], a row of
//   the
//                  last sample; -1 for kPaddingToken and for an id outside [0, vocab)
//   kv_index[i]  = block_table[slot, positions[i] / block_size] * block_size
//                  + positions[i] % block_size, slot = seq_slot[token_seq[i]];
//                  -1 for kPaddingToken, a negative block, or anything outside its table
// Pointers of arrays with no elements may be null.
struct PrepareStepArgs {
  static constexpr int32_t kPaddingToken = INT32_MIN;
  const int32_t* token_source = nullptr;   // [t] device
  const int32_t* token_seq = nullptr;      // [t] device: index into seq_slot
  const int32_t* positions = nullptr;      // [t] device
  const int32_t* seq_slot = nullptr;       // [s] device
  const int32_t* block_patches = nullptr;  // [patches, 3] device
  const int32_t* last_ids = nullptr;       // [last_rows] device
  int32_t* block_table = nullptr;          // [slots, max_blocks] device, patched
  int32_t* token_ids = nullptr;            // [t] device out
  int64_t* kv_index = nullptr;             // [t] device out
  int64_t t = 0, s = 0, patches = 0, last_rows = 0;
  int64_t slots = 0, max_blocks = 0, block_size = 0, vocab = 0;
};

// Enqueues on `stream`. kInvalidArgument: negative size or block_size.
absl::Status PrepareStepCpu(const PrepareStepArgs& args, const Stream& stream);
absl::Status PrepareStepCuda(const PrepareStepArgs& args, const Stream& stream);

}  // namespace tessera
