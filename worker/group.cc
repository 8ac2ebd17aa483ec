#include "worker/group.h"

#include <chrono>
#include <thread>

#include "common/status_macros.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_plan_channel.h"
#include "parallel/mpi_status.h"
#include "parallel/self_communicator.h"
#ifdef TESSERA_WITH_CUDA
#include "parallel/nccl_communicator.h"
#endif

namespace tessera {
namespace {

constexpr int kTags = 16384;  // group tags are told apart by the instance number

absl::StatusOr<MPI_Comm> Duplicate(MPI_Comm comm) {
  MPI_Comm copy = MPI_COMM_NULL;
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_dup(comm, &copy), "MPI_Comm_dup"));
  return copy;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Group>> Group::Create(const GroupSpec& spec, const Ops& ops) {
  std::unique_ptr<Group> group(new Group(spec, ops));
  RETURN_IF_ERROR(group->Form());
  return group;
}

absl::Status Group::Form() {
  const int tag = static_cast<int>(spec_.instance % kTags) * 2;
  ASSIGN_OR_RETURN(all_, CreateGroup(MPI_COMM_WORLD, spec_.pool_ranks, tag));
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_rank(all_, &rank_), "MPI_Comm_rank"));
  const auto tp = static_cast<int>(spec_.shape.tp);
  std::vector<int> stage_ranks;
  for (int r = 0; r < tp; ++r) stage_ranks.push_back(rank_ / tp * tp + r);
  ASSIGN_OR_RETURN(stage_, CreateGroup(all_, stage_ranks, tag + 1));
  if (spec_.shape.ranks() > 1) {
    // A GPU rank has a core to itself and saves the wake-up; CPU ranks may share theirs.
    const absl::Duration spin =
        spec_.device == Device::kCuda ? absl::Microseconds(200) : absl::ZeroDuration();
    ASSIGN_OR_RETURN(
        channel_, NewMpiPlanChannel(all_, {.max_plan_bytes = spec_.max_plan_bytes, .spin = spin}));
  }
  return absl::OkStatus();
}

Group::~Group() {
  side_.reset();
  group_.reset();
  tp_.reset();
  channel_.reset();
  for (MPI_Comm* comm : {&stage_, &all_}) {
    if (*comm != MPI_COMM_NULL) MPI_Comm_free(comm);
  }
}

absl::Status Group::Agree(const absl::Status& mine) const {
  int ok = mine.ok() ? 1 : 0, all_ok = 0;
  MPI_Request request = MPI_REQUEST_NULL;
  RETURN_IF_ERROR(MpiStatus(MPI_Iallreduce(&ok, &all_ok, 1, MPI_INT, MPI_MIN, all_, &request),
                            "MPI_Iallreduce"));
  // A peer may still be reading weights for minutes: look now and then instead of spinning.
  for (int done = 0;;) {
    RETURN_IF_ERROR(MpiStatus(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test"));
    if (done != 0) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (!mine.ok()) return mine;
  return all_ok != 0 ? absl::OkStatus() : absl::AbortedError("another rank of the group gave up");
}

absl::Status Group::Connect(void* peer_region, int64_t peer_region_bytes) {
  return spec_.device == Device::kCpu ? ConnectCpu() : ConnectCuda(peer_region, peer_region_bytes);
}

absl::Status Group::ConnectCpu() {
  if (spec_.shape.tp > 1) {
    ASSIGN_OR_RETURN(MPI_Comm stage, Duplicate(stage_));
    tp_ = NewMpiCommunicator(stage, ops_);
  } else {
    tp_ = NewSelfCommunicator(ops_);
  }
  if (spec_.shape.pp > 1) {
    ASSIGN_OR_RETURN(MPI_Comm all, Duplicate(all_));
    group_ = NewMpiCommunicator(all, ops_);
  }
  return absl::OkStatus();
}

absl::Status Group::ConnectCuda(void* peer_region, int64_t peer_region_bytes) {
#ifdef TESSERA_WITH_CUDA
  if (spec_.shape.tp > 1) {
    const NcclOptions options = {.peer_region = peer_region,
                                 .peer_region_bytes = peer_region_bytes};
    ASSIGN_OR_RETURN(tp_, NewNcclCommunicator(stage_, ops_, options));
  } else {
    tp_ = NewSelfCommunicator(ops_);
  }
  if (spec_.shape.pp > 1) {
    // Results travel on a stream of their own, and a communicator serves one stream at a time.
    ASSIGN_OR_RETURN(group_, NewNcclCommunicator(all_, ops_, {}));
    ASSIGN_OR_RETURN(side_, NewNcclCommunicator(all_, ops_, {}));
  }
  return absl::OkStatus();
#else
  static_cast<void>(peer_region);
  static_cast<void>(peer_region_bytes);
  return absl::UnimplementedError("this build has no CUDA back end");
#endif
}

void Group::Abort() {
  for (Communicator* c : {tp_.get(), group_.get(), side_.get()}) {
    if (c != nullptr) c->Abort();
  }
}

}  // namespace tessera
