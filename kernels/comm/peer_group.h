// What a one-shot collective knows of its peers. Compiles without CUDA.
#pragma once

#include <cstdint>

#include "kernels/comm/peer_region_config.h"

namespace tessera {

// Regions of peer_region_config.h, one per rank, each mapped into this process. Before the first
// collective every rank has filled its packets with 0xff bytes and its counters with zeros, and
// knows that all others have. Collectives of a group run one at a time, in the same order on every
// rank.
struct PeerGroup {
  void* regions[kMaxPeerRanks] = {};  // device, by rank
  int rank = 0, ranks = 0;
  int64_t cells = 0;  // of each region
  // A wait for a peer ends early, with undefined results, once *abort_flag is not 0, and after
  // spin_limit_ns: then *missing_rank is set to the peer's rank + 1 and the kernel traps, so that
  // the device reports an error instead of hanging. Both are mapped host memory.
  const uint32_t* abort_flag = nullptr;
  uint32_t* missing_rank = nullptr;
  uint64_t spin_limit_ns = 0;
};

}  // namespace tessera
