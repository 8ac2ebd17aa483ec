// Gathers small buffers over the GPUs of one host in one hop, like one_shot_all_reduce.h. Any bits
// may be data here, so a packet carries 8 bytes of data and two flags.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "kernels/comm/peer_group.h"
#include "kernels/runtime/stream.h"

namespace tessera {

// recv[ranks * bytes] = the ranks' send[bytes] in rank order.
struct OneShotGatherArgs {
  PeerGroup peers;
  const void* send = nullptr;  // device, aligned to 4 bytes; may be recv + rank * bytes
  void* recv = nullptr;        // device, aligned to 4 bytes
  int64_t bytes = 0;           // a multiple of 4
};

// Enqueues on a CUDA stream; never synchronises. Zero bytes are a no-op. kInvalidArgument: negative
// bytes, not a multiple of 4, or 2 * bytes take more cells than the region has. kInternal: the
// launch was refused.
absl::Status LaunchOneShotGather(const OneShotGatherArgs& args, cudaStream_t stream);

}  // namespace tessera
