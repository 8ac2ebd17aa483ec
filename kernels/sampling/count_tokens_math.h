// How CountTokens changes one entry, shared by the CPU and CUDA.
// constexpr: nvcc compiles such functions for the device too (--expt-relaxed-constexpr).
#pragma once

#include <cstdint>

#include "kernels/sampling/sample.h"

namespace tessera {

inline constexpr uint16_t kInPrompt = 0x8000;
inline constexpr uint16_t kMaxTimes = 0x7fff;

// The entry of token i in the table, or -1 when it is not counted.
constexpr int64_t SeenEntry(const CountTokensArgs& a, int64_t i) {
  const int64_t id = a.token_ids[i], seq = a.token_seq[i];
  if (id < 0 || id >= a.seen.vocab || seq < 0 || seq >= a.s) return -1;
  const int64_t slot = a.seq_slot[seq];
  if (slot < 0 || slot >= a.seen.slots || a.params[slot].penalties == 0) return -1;
  return slot * a.seen.vocab + id;
}
constexpr bool IsPrompt(const CountTokensArgs& a, int64_t i) {
  return a.positions[i] < a.params[a.seq_slot[a.token_seq[i]]].prompt_len;
}
constexpr uint16_t Counted(uint16_t seen, bool prompt) {
  if (prompt) return static_cast<uint16_t>(seen | kInPrompt);
  return static_cast<uint16_t>((seen & kMaxTimes) == kMaxTimes ? seen : seen + 1);
}

}  // namespace tessera
