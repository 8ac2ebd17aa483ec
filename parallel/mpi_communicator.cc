#include "parallel/mpi_communicator.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include <absl/container/flat_hash_set.h>
#include <absl/strings/str_cat.h>

#include "common/check.h"
#include "common/log.h"
#include "common/status_macros.h"
#include "parallel/argument_check.h"
#include "parallel/local_copy.h"
#include "parallel/mpi_exchange.h"
#include "parallel/mpi_outbox.h"
#include "parallel/mpi_status.h"
#include "parallel/ordered_sum.h"
#include "parallel/residual_norm.h"

namespace tessera {
namespace {

// Up to this many bytes every rank gets all parts and sums them itself (one hop); beyond, each
// rank sums a slice and shares it (two hops, a fraction of the traffic).
constexpr int64_t kOneHopBytes = 16 * 1024;
// A reduction goes block by block, which bounds its scratch memory.
constexpr int64_t kBlockBytes = 4 << 20;

enum Tag { kPartsTag = 1, kSumsTag, kGatherTag, kPointToPointTag, kBroadcastTag };

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, int rank, int size, const Ops& ops)
      : comm_(comm),
        rank_(rank),
        size_(size),
        ops_(ops),
        exchange_(comm, &aborted_),
        outbox_(comm) {}

  ~MpiCommunicator() override {
    int finalized = 0;
    if (MPI_Finalized(&finalized) != MPI_SUCCESS || finalized || aborted_) return;
    if (const int code = MPI_Comm_free(&comm_); code != MPI_SUCCESS)
      LogError(MpiStatus(code, "freeing a group").message());
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllReduceSum(void* data, int64_t count, DType dtype, const Stream&) override {
    RETURN_IF_ERROR(CheckSum(count, dtype));
    RETURN_IF_ERROR(Alive());
    if (size_ == 1) return absl::OkStatus();
    const int64_t element = SizeOf(dtype);
    const int64_t block = kBlockBytes / element;
    for (int64_t at = 0; at < count; at += block) {
      char* start = static_cast<char*>(data) + at * element;
      const int64_t n = std::min(block, count - at);
      RETURN_IF_ERROR(n * element <= kOneHopBytes ? SumInOneHop(start, n, dtype)
                                                  : SumInSlices(start, n, dtype));
    }
    return absl::OkStatus();
  }

  absl::Status AllReduceNorm(const AllReduceNormArgs& args, const Stream& stream) override {
    RETURN_IF_ERROR(CheckAllReduceNorm(args));
    RETURN_IF_ERROR(AllReduceSum(args.partial, args.t * args.d, args.dtype, stream));
    return AddResidualAndNorm(args, ops_, stream);
  }

  absl::Status AllGather(const void* send, void* recv, int64_t bytes,
                         const Stream& stream) override {
    RETURN_IF_ERROR(CheckBytes(bytes));
    RETURN_IF_ERROR(Alive());
    char* parts = static_cast<char*>(recv);
    for (const int peer : Peers())
      RETURN_IF_ERROR(exchange_.Receive(parts + peer * bytes, bytes, peer, kGatherTag));
    for (const int peer : Peers()) RETURN_IF_ERROR(exchange_.Send(send, bytes, peer, kGatherTag));
    RETURN_IF_ERROR(LocalCopy(parts + rank_ * bytes, send, bytes, stream));
    return exchange_.Wait();
  }

  absl::Status Send(const void* data, int64_t bytes, int peer, const Stream&) override {
    RETURN_IF_ERROR(CheckTransfer(bytes, peer, rank_, size_));
    RETURN_IF_ERROR(Alive());
    if (bytes <= kBufferedSendBytes) return outbox_.Post(data, bytes, peer, kPointToPointTag);
    RETURN_IF_ERROR(exchange_.Send(data, bytes, peer, kPointToPointTag));
    return exchange_.Wait();
  }

  absl::Status Recv(void* data, int64_t bytes, int peer, const Stream&) override {
    RETURN_IF_ERROR(CheckTransfer(bytes, peer, rank_, size_));
    RETURN_IF_ERROR(Alive());
    const int64_t piece = bytes <= kBufferedSendBytes ? MpiOutbox::kPieceBytes : bytes;
    for (int64_t at = 0; at < bytes; at += piece) {
      RETURN_IF_ERROR(exchange_.Receive(static_cast<char*>(data) + at, std::min(piece, bytes - at),
                                        peer, kPointToPointTag));
    }
    return exchange_.Wait();
  }

  absl::Status Broadcast(void* data, int64_t bytes, int root, const Stream&) override {
    RETURN_IF_ERROR(CheckBroadcast(bytes, root, size_));
    RETURN_IF_ERROR(Alive());
    if (rank_ != root) {
      RETURN_IF_ERROR(exchange_.Receive(data, bytes, root, kBroadcastTag));
    } else {
      for (const int peer : Peers())
        RETURN_IF_ERROR(exchange_.Send(data, bytes, peer, kBroadcastTag));
    }
    return exchange_.Wait();
  }

  void Abort() override { aborted_ = true; }

 private:
  absl::Status Alive() const {
    return aborted_ ? absl::UnavailableError("the group was aborted") : absl::OkStatus();
  }

  // All other ranks, beginning with the next one, so that not all ranks send to the same one first.
  std::vector<int> Peers() const {
    std::vector<int> peers;
    for (int step = 1; step < size_; ++step) peers.push_back((rank_ + step) % size_);
    return peers;
  }

  char* Scratch(int64_t bytes) {
    if (static_cast<int64_t>(scratch_.size()) < bytes) scratch_.resize(static_cast<size_t>(bytes));
    return scratch_.data();
  }

  absl::Status SumInOneHop(char* data, int64_t count, DType dtype) {
    const int64_t bytes = count * SizeOf(dtype);
    char* scratch = Scratch(bytes * size_);
    std::vector<const void*> parts(static_cast<size_t>(size_), data);
    for (const int peer : Peers()) {
      parts[static_cast<size_t>(peer)] = scratch + peer * bytes;
      RETURN_IF_ERROR(exchange_.Receive(scratch + peer * bytes, bytes, peer, kPartsTag));
    }
    for (const int peer : Peers()) RETURN_IF_ERROR(exchange_.Send(data, bytes, peer, kPartsTag));
    RETURN_IF_ERROR(exchange_.Wait());
    SumInOrder(parts, count, dtype, data);
    return absl::OkStatus();
  }

  // Rank r owns elements [r * count / size, (r + 1) * count / size).
  absl::Status SumInSlices(char* data, int64_t count, DType dtype) {
    const int64_t element = SizeOf(dtype);
    auto begin = [&](int r) { return r * count / size_; };
    auto slice = [&](int r) { return data + begin(r) * element; };
    auto slice_bytes = [&](int r) { return (begin(r + 1) - begin(r)) * element; };
    const int64_t own_bytes = slice_bytes(rank_);
    char* scratch = Scratch(own_bytes * size_);
    std::vector<const void*> parts(static_cast<size_t>(size_), slice(rank_));
    for (const int peer : Peers()) {
      parts[static_cast<size_t>(peer)] = scratch + peer * own_bytes;
      RETURN_IF_ERROR(exchange_.Receive(scratch + peer * own_bytes, own_bytes, peer, kPartsTag));
    }
    for (const int peer : Peers())
      RETURN_IF_ERROR(exchange_.Send(slice(peer), slice_bytes(peer), peer, kPartsTag));
    // Waiting for the sends too: their slices are overwritten by the sums next.
    RETURN_IF_ERROR(exchange_.Wait());
    SumInOrder(parts, own_bytes / element, dtype, slice(rank_));
    for (const int peer : Peers())
      RETURN_IF_ERROR(exchange_.Receive(slice(peer), slice_bytes(peer), peer, kSumsTag));
    for (const int peer : Peers())
      RETURN_IF_ERROR(exchange_.Send(slice(rank_), own_bytes, peer, kSumsTag));
    return exchange_.Wait();
  }

  MPI_Comm comm_;
  const int rank_, size_;
  const Ops& ops_;
  std::atomic<bool> aborted_{false};
  MpiExchange exchange_;
  MpiOutbox outbox_;
  std::vector<char> scratch_;  // grows to kBlockBytes and a little
};

}  // namespace

absl::StatusOr<MPI_Comm> CreateGroup(MPI_Comm parent, absl::Span<const int> ranks, int tag) {
  int size = 0, self = 0;
  RETURN_IF_MPI_ERROR(MPI_Comm_size(parent, &size), "size of the parent group");
  RETURN_IF_MPI_ERROR(MPI_Comm_rank(parent, &self), "rank in the parent group");
  absl::flat_hash_set<int> named;
  for (const int rank : ranks)
    if (rank < 0 || rank >= size || !named.insert(rank).second)
      return absl::InvalidArgumentError(
          absl::StrCat("group: rank ", rank, " is outside a pool of ", size, " or named twice"));
  if (!named.contains(self))
    return absl::InvalidArgumentError(
        absl::StrCat("group: rank ", self, " forms a group it is not in"));
  MPI_Group all, some;
  RETURN_IF_MPI_ERROR(MPI_Comm_group(parent, &all), "parent group");
  int code = MPI_Group_incl(all, static_cast<int>(ranks.size()), ranks.data(), &some);
  MPI_Group_free(&all);
  RETURN_IF_MPI_ERROR(code, "choosing the group's ranks");
  MPI_Comm comm = MPI_COMM_NULL;
  code = MPI_Comm_create_group(parent, some, tag, &comm);
  MPI_Group_free(&some);
  RETURN_IF_MPI_ERROR(code, "forming the group");
  RETURN_IF_MPI_ERROR(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "error handler");
  return comm;
}

std::unique_ptr<Communicator> NewMpiCommunicator(MPI_Comm comm, const Ops& ops) {
  int rank = 0, size = 0;
  TESSERA_CHECK(MPI_Comm_rank(comm, &rank) == MPI_SUCCESS &&
                    MPI_Comm_size(comm, &size) == MPI_SUCCESS &&
                    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN) == MPI_SUCCESS,
                "not a communicator");
  return std::make_unique<MpiCommunicator>(comm, rank, size, ops);
}

}  // namespace tessera
