// Communicators over NCCL for CUDA ranks; small all-reduces go peer to peer.
#pragma once

#include <cstdint>
#include <memory>

#include <absl/status/statusor.h>
#include <absl/time/time.h>
#include <mpi.h>

#include "kernels/ops.h"
#include "parallel/communicator.h"

namespace tessera {

// Sets NCCL_NVLS_ENABLE=0 unless it is set: NCCL offers no other way, and on some shared hosts a
// program that uses NVLink multicast puts the GPUs out of service. The first thing in main(),
// before any thread starts.
void KeepNvlinkMulticastOff();

struct NcclOptions {
  // Device memory of the rank's arena for peer-to-peer reductions: PeerRegionBytes(ranks, max_rows,
  // d, dtype) of kernels/comm/peer_region_config.h, aligned to 16 bytes; null: NCCL alone is used.
  // It may be a part of one cudaMalloc; peers then map all of that allocation. Freed only after the
  // communicators of all ranks are gone.
  void* peer_region = nullptr;
  int64_t peer_region_bytes = 0;
  // How long a kernel waits for a peer before it traps, which poisons the CUDA context. The last
  // resort behind the watchdog; longer than ranks can be apart when they meet.
  absl::Duration peer_timeout = absl::Seconds(20);
};

// Collective over `mpi`, which carries the NCCL id and peer handles while the group forms and is
// not used afterwards (the caller keeps it). The CUDA device must be current. Where the ranks do
// not all share a host with peer access, or a rank has no region, NCCL alone is used and a log line
// says why. All operations can be captured in CUDA graphs.
//
// NCCL connects to a peer when an operation first needs it: that call waits on the host for the
// peers to make it too. Later calls enqueue and return.
//
// Abort() takes at most 1 s and ends both kinds of wait, on the host with kUnavailable, on the
// device with undefined results; nothing but the destructor is of use afterwards. Destroyed when
// the device is idle and graphs with its operations are gone; the destructor waits for NCCL at most
// 10 s. kFailedPrecondition: NCCL_NVLS_ENABLE is not "0".
// kInternal: NCCL or CUDA refused, with its text.
absl::StatusOr<std::unique_ptr<Communicator>> NewNcclCommunicator(MPI_Comm mpi, const Ops& ops,
                                                                  const NcclOptions& options);

}  // namespace tessera
