#include "parallel/mpi_plan_channel.h"

#include <cstring>

#include <absl/strings/str_cat.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "parallel/mpi_status.h"
#include "parallel/plan_relay.h"
#include "parallel/plan_ring.h"

namespace tessera {
namespace {

constexpr uintptr_t kRingAlignment = 64;

void Release(int code, absl::string_view what) {
  if (code != MPI_SUCCESS) LogError(MpiStatus(code, what).message());
}

// The MPI objects of one end. Freed collectively, in the order of making reversed.
struct Handles {
  Handles() = default;
  Handles(const Handles&) = delete;
  Handles& operator=(const Handles&) = delete;
  ~Handles() {
    int finalized = 0;
    if (MPI_Finalized(&finalized) != MPI_SUCCESS || finalized) return;
    if (window != MPI_WIN_NULL) Release(MPI_Win_free(&window), "plan channel: freeing the window");
    if (heads != MPI_COMM_NULL) Release(MPI_Comm_free(&heads), "plan channel: freeing the heads");
    if (on_host != MPI_COMM_NULL)
      Release(MPI_Comm_free(&on_host), "plan channel: freeing the host's group");
  }

  MPI_Comm on_host = MPI_COMM_NULL;  // ranks of this host; rank 0 is its head
  MPI_Comm heads = MPI_COMM_NULL;    // the hosts' heads, on heads only; rank 0 is the leader
  MPI_Win window = MPI_WIN_NULL;     // holds the host's ring
};

// The group of ranks that share memory and, where given, the number `host`. The leader sorts first.
absl::Status SplitByHost(MPI_Comm comm, std::optional<int> host, MPI_Comm* on_host) {
  MPI_Comm shared = MPI_COMM_NULL;
  RETURN_IF_MPI_ERROR(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &shared),
                      "plan channel: finding the ranks of each host");
  const int code = MPI_Comm_split(shared, host.value_or(0), 0, on_host);
  Release(MPI_Comm_free(&shared), "plan channel: freeing a group");
  return MpiStatus(code, "plan channel: splitting a host");
}

class MpiPlanChannel : public PlanChannel {
 public:
  MpiPlanChannel(bool is_leader, const PlanChannelOptions& options)
      : is_leader_(is_leader), options_(options) {}

  absl::Status Init(MPI_Comm comm, std::optional<int> host) {
    RETURN_IF_ERROR(SplitByHost(comm, host, &handles_.on_host));
    int local_ranks = 0;
    RETURN_IF_MPI_ERROR(MPI_Comm_rank(handles_.on_host, &local_rank_), "plan channel: local rank");
    RETURN_IF_MPI_ERROR(MPI_Comm_size(handles_.on_host, &local_ranks), "plan channel: local ranks");
    const bool is_head = local_rank_ == 0;
    RETURN_IF_MPI_ERROR(MPI_Comm_split(comm, is_head ? 0 : MPI_UNDEFINED, 0, &handles_.heads),
                        "plan channel: forming the group of heads");
    RETURN_IF_ERROR(MapRing({.readers = local_ranks - 1,
                             .slots = options_.capacity_plans,
                             .slot_bytes = options_.max_plan_bytes}));
    if (is_leader_)
      sender_.emplace(handles_.heads, options_.capacity_plans, options_.publish_timeout);
    else if (is_head)
      receiver_.emplace(handles_.heads, options_.max_plan_bytes);
    return absl::OkStatus();
  }

  absl::Status Publish(absl::Span<const uint8_t> plan) override {
    if (!is_leader_)
      return absl::FailedPreconditionError("plan channel: only the leader publishes");
    RETURN_IF_ERROR(ring_->Write(plan, options_.publish_timeout));
    return sender_->Send(plan);
  }

  absl::StatusOr<absl::Span<const uint8_t>> Next(absl::Duration timeout) override {
    if (is_leader_)
      return absl::FailedPreconditionError("plan channel: the leader has no plans to wait for");
    if (!receiver_.has_value()) return ring_->Read(local_rank_ - 1, timeout, options_.spin);
    ASSIGN_OR_RETURN(const absl::Span<const uint8_t> plan, receiver_->Receive(timeout));
    RETURN_IF_ERROR(ring_->Write(plan, options_.publish_timeout));
    return plan;
  }

 private:
  // The head's part of the window is the ring, the others' parts are empty. MPI aligns the window
  // to 16 bytes only, at the same place of a page in every process.
  absl::Status MapRing(const PlanRingShape& shape) {
    const bool is_head = local_rank_ == 0;
    const MPI_Aint bytes = is_head ? PlanRing::Bytes(shape) + int64_t{kRingAlignment} : 0;
    void* memory = nullptr;
    RETURN_IF_MPI_ERROR(MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, handles_.on_host, &memory,
                                                &handles_.window),
                        "plan channel: allocating the shared window");
    MPI_Aint head_bytes = 0;
    int unit = 0;
    RETURN_IF_MPI_ERROR(MPI_Win_shared_query(handles_.window, 0, &head_bytes, &unit, &memory),
                        "plan channel: mapping the shared window");
    auto start = reinterpret_cast<uintptr_t>(memory);
    uint64_t skip = (kRingAlignment - start % kRingAlignment) % kRingAlignment;
    RETURN_IF_MPI_ERROR(MPI_Bcast(&skip, 1, MPI_UINT64_T, 0, handles_.on_host),
                        "plan channel: agreeing on the ring's place");
    start += skip;
    if (start % kRingAlignment != 0)
      return absl::InternalError("plan channel: the shared window is mapped at odd addresses");
    memory = static_cast<char*>(memory) + skip;
    if (is_head) std::memset(memory, 0, static_cast<size_t>(PlanRing::Bytes(shape)));
    RETURN_IF_MPI_ERROR(MPI_Barrier(handles_.on_host), "plan channel: barrier");
    ring_.emplace(memory, shape);
    return absl::OkStatus();
  }

  const bool is_leader_;
  const PlanChannelOptions options_;
  Handles handles_;
  int local_rank_ = 0;
  std::optional<PlanRing> ring_;          // this host's; the head writes, the others read
  std::optional<PlanSender> sender_;      // on the leader
  std::optional<PlanReceiver> receiver_;  // on heads of other hosts
};

}  // namespace

absl::StatusOr<std::unique_ptr<PlanChannel>> NewMpiPlanChannel(MPI_Comm comm,
                                                               const PlanChannelOptions& options,
                                                               std::optional<int> host) {
  if (options.max_plan_bytes <= 0 || options.capacity_plans <= 0)
    return absl::InvalidArgumentError(
        absl::StrCat("plan channel: max_plan_bytes=", options.max_plan_bytes,
                     " capacity_plans=", options.capacity_plans, ", both must be positive"));
  int rank = 0;
  RETURN_IF_MPI_ERROR(MPI_Comm_rank(comm, &rank), "plan channel: rank");
  auto channel = std::make_unique<MpiPlanChannel>(rank == 0, options);
  RETURN_IF_ERROR(channel->Init(comm, host));
  return channel;
}

}  // namespace tessera
