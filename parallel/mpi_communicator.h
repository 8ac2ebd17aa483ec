// Communicators over MPI for CPU ranks, and the forming of groups from the pool.
#pragma once

#include <memory>

#include <absl/status/statusor.h>
#include <absl/types/span.h>
#include <mpi.h>

#include "kernels/ops.h"
#include "parallel/communicator.h"

namespace tessera {

// The sub-communicator of `ranks` (of `parent`, in that order), formed by those ranks alone
// (MPI_Comm_create_group), with MPI_ERRORS_RETURN. `tag` must differ between groups formed at the
// same time. Collective over `ranks`; the caller frees it with MPI_Comm_free. kInvalidArgument: no
// ranks, one outside the parent, one named twice, or the caller not among them. kInternal: MPI
// refused (only where the parent's error handler returns).
absl::StatusOr<MPI_Comm> CreateGroup(MPI_Comm parent, absl::Span<const int> ranks, int tag);

// Takes ownership of `comm` and duplicates nothing. Called from the one thread that calls MPI
// (MPI_THREAD_FUNNELED). Sums are done in rank order on every rank, whatever MPI's own algorithms.
// Waiting ranks yield their core and then sleep between polls, so more ranks than cores work.
// After Abort() buffers of operations under way must stay allocated until the process ends.
// `ops` must outlive the result.
std::unique_ptr<Communicator> NewMpiCommunicator(MPI_Comm comm, const Ops& ops);

}  // namespace tessera
