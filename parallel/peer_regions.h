// The peers' device memory, mapped into this process for one-shot collectives.
#pragma once

#include <cstdint>
#include <memory>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>
#include <mpi.h>

#include "kernels/comm/peer_group.h"

namespace tessera {

// Owns the mappings and the two words of pinned host memory that kernels and host share.
class PeerRegions {
 public:
  // Collective over `mpi`. Fills this rank's region, maps all others and waits until every rank has
  // done so. Null where peer to peer is impossible, the same on all ranks: no region, 1 rank or
  // more than kMaxPeerRanks, several hosts, or a GPU that cannot reach another one's memory; the
  // reason is logged. kInternal: MPI refused, or CUDA beyond that.
  static absl::StatusOr<std::unique_ptr<PeerRegions>> Map(MPI_Comm mpi, void* region, int64_t bytes,
                                                          absl::Duration timeout);
  ~PeerRegions();
  PeerRegions(const PeerRegions&) = delete;
  PeerRegions& operator=(const PeerRegions&) = delete;

  const PeerGroup& group() const { return group_; }

  // Ends waits on the device, with undefined results. Any thread.
  void Abort();
  // kUnavailable: a kernel gave up waiting for a peer, which is named. Any thread.
  absl::Status Health() const;

 private:
  PeerRegions() = default;
  absl::Status InitLocal(void* region);
  absl::Status OpenPeers(const void* records);

  PeerGroup group_;
  absl::Duration timeout_;
  void* mapped_[kMaxPeerRanks] = {};  // bases to close, null where nothing is mapped
  uint32_t* host_words_ = nullptr;    // abort flag, missing rank + 1
};

}  // namespace tessera
