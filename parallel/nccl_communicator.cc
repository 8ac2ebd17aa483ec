#include "parallel/nccl_communicator.h"

#include <atomic>
#include <cstdlib>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "kernels/comm/one_shot_all_reduce.h"
#include "kernels/comm/one_shot_gather.h"
#include "kernels/runtime/cuda_status.h"
#include "parallel/argument_check.h"
#include "parallel/bounded_call.h"
#include "parallel/mpi_status.h"
#include "parallel/peer_regions.h"
#include "parallel/residual_norm.h"

namespace tessera {
namespace {

constexpr const char* kMulticastVariable = "NCCL_NVLS_ENABLE";
constexpr absl::Duration kLeaveWait = absl::Seconds(5);
constexpr absl::Duration kAbortWait = absl::Seconds(1);
constexpr absl::Duration kDestroyWait = absl::Seconds(10);

absl::Status NcclStatus(ncclResult_t result, absl::string_view what) {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  const std::string message =
      absl::StrCat(what, ": NCCL error ", int{result}, " ", ncclGetErrorString(result));
  return result == ncclRemoteError ? absl::UnavailableError(message) : absl::InternalError(message);
}

ncclDataType_t NcclType(DType dtype) {  // of a float type
  return dtype == DType::kBf16 ? ncclBfloat16 : dtype == DType::kF16 ? ncclFloat16 : ncclFloat32;
}

bool IsAligned(const void* p, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(ncclComm_t comm, int rank, int size, const Ops& ops)
      : comm_(comm), rank_(rank), size_(size), ops_(ops) {}

  ~NcclCommunicator() override;

  absl::Status Init(MPI_Comm mpi, const NcclOptions& options) {
    RETURN_IF_CUDA_ERROR(cudaGetDevice(&device_), "current device");
    int major = 0, minor = 0;
    RETURN_IF_CUDA_ERROR(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_),
                         "device facts");
    RETURN_IF_CUDA_ERROR(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device_),
                         "device facts");
    compute_capability_ = 10 * major + minor;
    ASSIGN_OR_RETURN(peers_, PeerRegions::Map(mpi, options.peer_region, options.peer_region_bytes,
                                              options.peer_timeout));
    return absl::OkStatus();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllReduceSum(void* data, int64_t count, DType dtype, const Stream& stream) override {
    RETURN_IF_ERROR(CheckSum(count, dtype));
    if (FitsPeers(count * SizeOf(dtype)) && IsAligned(data, 16)) {
      RETURN_IF_ERROR(Alive());
      return LaunchOneShotAllReduceSum(
          {.peers = peers_->group(), .data = data, .count = count, .dtype = dtype}, stream.cuda);
    }
    return Call("all-reduce", [&] {
      return ncclAllReduce(data, data, static_cast<size_t>(count), NcclType(dtype), ncclSum, comm_,
                           stream.cuda);
    });
  }

  absl::Status AllReduceNorm(const AllReduceNormArgs& a, const Stream& stream) override {
    RETURN_IF_ERROR(CheckAllReduceNorm(a));
    const int64_t row_bytes = a.d * SizeOf(a.dtype);
    const OneShotShape shape = ChooseOneShotShape(row_bytes, compute_capability_);
    const bool one_shot =
        peers_ != nullptr && shape.blocks_per_row > 0 && a.d % 8 == 0 && a.dtype != DType::kF32 &&
        a.t * PeerCells(row_bytes) <= peers_->group().cells && IsAligned(a.partial, 16) &&
        IsAligned(a.residual, 16) && IsAligned(a.weight, 16) && IsAligned(a.y, 16);
    if (!one_shot) {
      RETURN_IF_ERROR(Call("all-reduce", [&] {
        return ncclAllReduce(a.partial, a.partial, static_cast<size_t>(a.t * a.d),
                             NcclType(a.dtype), ncclSum, comm_, stream.cuda);
      }));
      return AddResidualAndNorm(a, ops_, stream);
    }
    RETURN_IF_ERROR(Alive());
    return LaunchOneShotAllReduceNorm({.peers = peers_->group(),
                                       .partial = a.partial,
                                       .residual = a.residual,
                                       .weight = a.weight,
                                       .y = a.y,
                                       .copies = a.copies,
                                       .t = a.t,
                                       .d = a.d,
                                       .eps = a.eps,
                                       .dtype = a.dtype,
                                       .shape = shape},
                                      stream.cuda);
  }

  absl::Status AllGather(const void* send, void* recv, int64_t bytes,
                         const Stream& stream) override {
    RETURN_IF_ERROR(CheckBytes(bytes));
    if (bytes % 4 == 0 && FitsPeers(2 * bytes) && IsAligned(send, 4) && IsAligned(recv, 4)) {
      RETURN_IF_ERROR(Alive());
      return LaunchOneShotGather(
          {.peers = peers_->group(), .send = send, .recv = recv, .bytes = bytes}, stream.cuda);
    }
    return Call("all-gather", [&] {
      return ncclAllGather(send, recv, static_cast<size_t>(bytes), ncclInt8, comm_, stream.cuda);
    });
  }

  absl::Status Send(const void* data, int64_t bytes, int peer, const Stream& stream) override {
    RETURN_IF_ERROR(CheckTransfer(bytes, peer, rank_, size_));
    return Call("send", [&] {
      return ncclSend(data, static_cast<size_t>(bytes), ncclInt8, peer, comm_, stream.cuda);
    });
  }

  absl::Status Recv(void* data, int64_t bytes, int peer, const Stream& stream) override {
    RETURN_IF_ERROR(CheckTransfer(bytes, peer, rank_, size_));
    return Call("receive", [&] {
      return ncclRecv(data, static_cast<size_t>(bytes), ncclInt8, peer, comm_, stream.cuda);
    });
  }

  absl::Status Broadcast(void* data, int64_t bytes, int root, const Stream& stream) override {
    RETURN_IF_ERROR(CheckBroadcast(bytes, root, size_));
    return Call("broadcast", [&] {
      return ncclBroadcast(data, data, static_cast<size_t>(bytes), ncclInt8, root, comm_,
                           stream.cuda);
    });
  }

  void Abort() override;

 private:
  // Sums and gathers alike: `bytes` of cells.
  bool FitsPeers(int64_t bytes) const {
    return peers_ != nullptr && PeerCells(bytes) <= peers_->group().cells;
  }

  absl::Status Alive() const {
    if (aborted_) return absl::UnavailableError("the group was aborted");
    return peers_ != nullptr ? peers_->Health() : absl::OkStatus();
  }

  template <typename NcclCall>
  absl::Status Call(absl::string_view what, const NcclCall& call) {
    *in_nccl_ = true;  // before aborted_ is looked at: Abort() looks at them the other way round
    absl::Status status = Alive();
    ncclResult_t earlier = ncclSuccess;
    if (status.ok()) status = NcclStatus(ncclCommGetAsyncError(comm_, &earlier), what);
    if (status.ok()) status = NcclStatus(earlier, "an earlier operation");
    if (status.ok()) status = NcclStatus(call(), what);
    *in_nccl_ = false;
    return aborted_ ? absl::UnavailableError("the group was aborted") : status;
  }

  const ncclComm_t comm_;
  const int rank_, size_;
  const Ops& ops_;
  int device_ = 0;
  int compute_capability_ = 0;
  std::unique_ptr<PeerRegions> peers_;  // null: NCCL alone
  // The engine's thread is inside NCCL. Shared with the thread of Abort(), which may outlive this.
  const std::shared_ptr<std::atomic<bool>> in_nccl_ = std::make_shared<std::atomic<bool>>(false);
  std::atomic<bool> aborted_{false};
};

// Ends what waits in `comm` on host and device, then frees it once nobody is inside. In a group,
// ncclCommAbort raises its flag at once but frees at ncclGroupEnd; outside of one it would free
// under a thread that is still leaving, such as one that was connecting to a peer.
void AbortAndFree(ncclComm_t comm, int device, const std::atomic<bool>& in_nccl) {
  if (cudaSetDevice(device) != cudaSuccess) return;
  absl::Status status = NcclStatus(ncclGroupStart(), "aborting a group: start");
  if (status.ok()) status = NcclStatus(ncclCommAbort(comm), "aborting a group");
  const absl::Time deadline = absl::Now() + kLeaveWait;
  while (in_nccl && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  if (status.ok() && in_nccl)
    status = absl::InternalError(absl::StrCat(
        "aborting a group: a call is still inside NCCL after ", absl::FormatDuration(kLeaveWait)));
  // Waits for CUDA graphs that hold the group's operations to be destroyed, which may be never.
  if (status.ok()) status = NcclStatus(ncclGroupEnd(), "freeing an aborted group");
  if (!status.ok()) LogError(status.message());
}

void NcclCommunicator::Abort() {
  if (aborted_.exchange(true)) return;
  if (peers_ != nullptr) peers_->Abort();
  CallWithin(kAbortWait, [comm = comm_, device = device_, in_nccl = in_nccl_] {
    AbortAndFree(comm, device, *in_nccl);
  });
}

NcclCommunicator::~NcclCommunicator() {
  if (aborted_) {
    // Kernels of this rank may still look at the mappings; the process is about to end.
    (void)peers_.release();
    return;
  }
  const bool done = CallWithin(kDestroyWait, [comm = comm_, device = device_] {
    if (cudaSetDevice(device) != cudaSuccess) return;
    const absl::Status destroyed = NcclStatus(ncclCommDestroy(comm), "destroying a group");
    if (!destroyed.ok()) LogError(destroyed.message());
  });
  if (!done) LogError("NCCL did not let go of a group within ", absl::FormatDuration(kDestroyWait));
}

}  // namespace

void KeepNvlinkMulticastOff() { setenv(kMulticastVariable, "0", /*overwrite=*/0); }

absl::StatusOr<std::unique_ptr<Communicator>> NewNcclCommunicator(MPI_Comm mpi, const Ops& ops,
                                                                  const NcclOptions& options) {
  const char* multicast = std::getenv(kMulticastVariable);
  if (multicast == nullptr || absl::string_view(multicast) != "0")
    return absl::FailedPreconditionError(
        absl::StrCat(kMulticastVariable, " is ", multicast == nullptr ? "not set" : multicast,
                     ", must be 0: main() calls KeepNvlinkMulticastOff()"));
  int rank = 0, size = 0;
  RETURN_IF_MPI_ERROR(MPI_Comm_rank(mpi, &rank), "forming a group: rank");
  RETURN_IF_MPI_ERROR(MPI_Comm_size(mpi, &size), "forming a group: size");
  ncclUniqueId id = {};
  absl::Status made = absl::OkStatus();
  if (rank == 0) made = NcclStatus(ncclGetUniqueId(&id), "making a group's id");
  // Rank 0 sends what it has, so that a refusal there does not leave the others waiting here.
  RETURN_IF_MPI_ERROR(MPI_Bcast(&id, sizeof(id), MPI_BYTE, 0, mpi), "sending the group's id");
  RETURN_IF_ERROR(made);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 1;
  ncclComm_t comm = nullptr;
  RETURN_IF_ERROR(
      NcclStatus(ncclCommInitRankConfig(&comm, size, id, rank, &config), "forming a group"));
  auto communicator = std::make_unique<NcclCommunicator>(comm, rank, size, ops);
  RETURN_IF_ERROR(communicator->Init(mpi, options));
  return communicator;
}

}  // namespace tessera
