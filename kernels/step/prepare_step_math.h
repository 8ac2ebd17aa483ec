// What PrepareStep does for one patch and for one token, shared by the CPU and CUDA.
// constexpr: nvcc compiles such functions for the device too (--expt-relaxed-constexpr).
#pragma once

#include <cstdint>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>

#include "kernels/step/prepare_step.h"

namespace tessera {

inline absl::Status CheckPrepareStep(const PrepareStepArgs& a) {
  if (a.t < 0 || a.s < 0 || a.patches < 0 || a.last_rows < 0 || a.slots < 0 || a.max_blocks < 0 ||
      a.vocab < 0 || a.block_size < 1)
    return absl::InvalidArgumentError(
        absl::StrCat("prepare_step: t=", a.t, " s=", a.s, " patches=", a.patches,
                     " last_rows=", a.last_rows, " slots=", a.slots, " max_blocks=", a.max_blocks,
                     " block_size=", a.block_size, " vocab=", a.vocab));
  return absl::OkStatus();
}

constexpr void ApplyPatch(const PrepareStepArgs& a, int64_t i) {
  const int64_t slot = a.block_patches[3 * i], index = a.block_patches[3 * i + 1];
  if (slot < 0 || slot >= a.slots || index < 0 || index >= a.max_blocks) return;
  a.block_table[slot * a.max_blocks + index] = a.block_patches[3 * i + 2];
}

constexpr int32_t TokenId(const PrepareStepArgs& a, int64_t i) {
  int32_t id = a.token_source[i];
  if (id < 0) {
    const int64_t row = int64_t{-1} - id;
    if (id == PrepareStepArgs::kPaddingToken || row >= a.last_rows) return -1;
    id = a.last_ids[row];
  }
  return id >= 0 && id < a.vocab ? id : -1;
}

constexpr int64_t KvIndex(const PrepareStepArgs& a, int64_t i) {
  if (a.token_source[i] == PrepareStepArgs::kPaddingToken) return -1;
  const int64_t seq = a.token_seq[i], position = a.positions[i];
  if (seq < 0 || seq >= a.s || position < 0) return -1;
  const int64_t slot = a.seq_slot[seq], index = position / a.block_size;
  if (slot < 0 || slot >= a.slots || index >= a.max_blocks) return -1;
  const int64_t block = a.block_table[slot * a.max_blocks + index];
  return block < 0 ? -1 : block * a.block_size + position % a.block_size;
}

}  // namespace tessera
