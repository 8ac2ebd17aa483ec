// The ranks that hold one model: their communicators, the channel that plans travel on, and
// agreement among them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <mpi.h>

#include "kernels/ops.h"
#include "model/shard.h"
#include "parallel/communicator.h"
#include "parallel/plan_channel.h"
#include "worker/engine.h"

namespace tessera {

struct GroupSpec {
  std::vector<int> pool_ranks;  // in the model's rank order; the first is the leader
  int64_t instance = 0;
  ParallelShape shape;
  Device device = Device::kCpu;
  int64_t max_plan_bytes = 0;
};

// Made and used by the engine thread, the only one that calls MPI.
class Group {
 public:
  // Collective over the group's ranks. kInternal: MPI refused, with its text.
  static absl::StatusOr<std::unique_ptr<Group>> Create(const GroupSpec& spec, const Ops& ops);
  ~Group();

  int rank() const { return rank_; }
  bool leader() const { return rank_ == 0; }

  // OK on every rank if `mine` is OK on every rank. Otherwise this rank's own error, or kAborted
  // when it has none: a rank that failed is never waited for inside a later collective.
  absl::Status Agree(const absl::Status& mine) const;

  // The communicators that run on the device; `peer` as NcclOptions::peer_region. Collective.
  absl::Status Connect(void* peer_region, int64_t peer_region_bytes);

  EnginePeers peers() const {
    return {tp_.get(), group_.get(), side_ ? side_.get() : group_.get()};
  }
  PlanChannel* channel() const { return channel_.get(); }  // null in a group of one

  // Any thread: what this rank waits for on the device ends.
  void Abort();

 private:
  Group(const GroupSpec& spec, const Ops& ops) : spec_(spec), ops_(ops) {}
  absl::Status Form();
  absl::Status ConnectCpu();
  absl::Status ConnectCuda(void* peer_region, int64_t peer_region_bytes);

  GroupSpec spec_;
  const Ops& ops_;
  int rank_ = 0;
  MPI_Comm all_ = MPI_COMM_NULL;    // the group
  MPI_Comm stage_ = MPI_COMM_NULL;  // its ranks of this stage
  std::unique_ptr<Communicator> tp_, group_, side_;
  std::unique_ptr<PlanChannel> channel_;
};

}  // namespace tessera
