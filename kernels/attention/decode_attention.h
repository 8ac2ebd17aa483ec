// The decode part of PagedAttentionCuda: sequences with one query row each.
#pragma once

#include <absl/status/status.h>

#include "kernels/attention/paged_attention.h"
#include "kernels/runtime/stream.h"

namespace tessera {

struct AttentionGpu {
  int sm_count = 0;
};

// Enqueues attention of the first args.decode_sequences rows, and zeros for rows behind them that
// belong to no sequence when the step has no others. The args have been checked.
absl::Status LaunchDecodeAttention(const PagedAttentionArgs& args, const AttentionGpu& gpu,
                                   const Stream& stream);

}  // namespace tessera
