// What both back ends refuse about PagedAttentionArgs.
#pragma once

#include <absl/status/status.h>

#include "kernels/attention/paged_attention.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// The errors that paged_attention.h promises, but for the workspace, which only CUDA needs.
absl::Status CheckPagedAttention(const PagedAttentionArgs& args, Device device);

}  // namespace tessera
