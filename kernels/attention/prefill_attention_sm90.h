// The prefill part of PagedAttentionCuda on sm_90 (H100, H200): wgmma and TMA.
#pragma once

#include <absl/status/status.h>

#include "kernels/attention/paged_attention.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// Whether LaunchPrefillAttentionSm90 serves these args on the current device.
bool ServesPrefillSm90(const PagedAttentionArgs& args);

// As LaunchPrefillAttention (prefill_attention.h). kInternal: a refused launch, or a cache that TMA
// cannot address.
absl::Status LaunchPrefillAttentionSm90(const PagedAttentionArgs& args, const Stream& stream);

}  // namespace tessera
