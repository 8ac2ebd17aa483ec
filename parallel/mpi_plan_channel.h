// Plan channels between the processes of an MPI group.
#pragma once

#include <memory>
#include <optional>

#include <absl/status/statusor.h>
#include <mpi.h>

#include "parallel/plan_channel.h"

namespace tessera {

// This rank's end of a channel over `comm`, whose rank 0 is the leader. Ranks of the leader's host
// read a ring in a shared-memory window; to each other host the leader sends plans by MPI, and one
// rank there, whose Next polls (sleeping up to 2 ms when idle), puts them into its own host's ring.
//
// Creation and destruction are collective over `comm`, which may be freed in between; the
// leader's end waits there (publish_timeout at most) until other hosts have taken all plans.
// Used by the thread that calls MPI. `host` overrides which ranks are taken to share a host (ranks
// with different numbers do not): for tests of several hosts on one.
// kInvalidArgument: sizes in `options` that are not positive. kInternal: MPI refused; where it
// returns errors at all, all ranks of `comm` should give up.
absl::StatusOr<std::unique_ptr<PlanChannel>> NewMpiPlanChannel(MPI_Comm comm,
                                                               const PlanChannelOptions& options,
                                                               std::optional<int> host = {});

}  // namespace tessera
