// The prefill part of PagedAttentionCuda: sequences with any number of query rows.
#pragma once

#include <absl/status/status.h>

#include "kernels/attention/paged_attention.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// Enqueues attention of the sequences from args.decode_sequences on, and zeros for rows behind them
// that belong to no sequence. The args have been checked.
absl::Status LaunchPrefillAttention(const PagedAttentionArgs& args, const Stream& stream);

}  // namespace tessera
