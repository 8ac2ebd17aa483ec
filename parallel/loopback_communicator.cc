#include "parallel/loopback_communicator.h"

#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/synchronization/mutex.h>

#include "common/check.h"
#include "common/status_macros.h"
#include "parallel/argument_check.h"
#include "parallel/ordered_sum.h"
#include "parallel/residual_norm.h"

namespace tessera {
namespace {

// What one rank brings to a collective. `data` is valid between the two barriers of the operation.
struct Offer {
  const char* operation = "";
  int64_t bytes = 0;
  int root = 0;
  const void* data = nullptr;
};

// What the ranks' threads share.
class LoopbackGroup {
 public:
  LoopbackGroup(int ranks, absl::Duration timeout)
      : ranks_(ranks), timeout_(timeout), offers_(static_cast<size_t>(ranks)) {}

  int ranks() const { return ranks_; }

  // Publishes `offer` and waits for those of all ranks, which stay readable until Leave().
  absl::Status Join(int rank, const Offer& offer) {
    absl::MutexLock lock(&mutex_);
    offers_[static_cast<size_t>(rank)] = offer;
    RETURN_IF_ERROR(Barrier(rank, offer.operation));
    for (int r = 0; r < ranks_; ++r) {
      const Offer& other = offers_[static_cast<size_t>(r)];
      TESSERA_CHECK(absl::string_view(other.operation) == offer.operation &&
                        other.bytes == offer.bytes && other.root == offer.root,
                    "rank ", rank, ": ", offer.operation, " of ", offer.bytes, " bytes, root ",
                    offer.root, "; rank ", r, ": ", other.operation, " of ", other.bytes,
                    " bytes, root ", other.root);
    }
    return absl::OkStatus();
  }

  // Waits until no rank reads the offers any more.
  absl::Status Leave(int rank, const char* operation) {
    absl::MutexLock lock(&mutex_);
    return Barrier(rank, operation);
  }

  // Between Join and Leave.
  const void* data(int rank) {
    absl::MutexLock lock(&mutex_);
    return offers_[static_cast<size_t>(rank)].data;
  }

  absl::Status Send(int from, int to, const void* data, int64_t bytes) {
    absl::MutexLock lock(&mutex_);
    if (!broken_.empty()) return absl::UnavailableError(broken_);
    mail_[{from, to}].emplace_back(static_cast<const char*>(data), static_cast<size_t>(bytes));
    return absl::OkStatus();
  }

  absl::Status Recv(int from, int to, void* data, int64_t bytes) {
    absl::MutexLock lock(&mutex_);
    std::deque<std::string>& box = mail_[{from, to}];
    auto arrived = [&] { return !box.empty() || !broken_.empty(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&arrived), timeout_))
      Break(absl::StrCat("recv of rank ", to, ": nothing from rank ", from, " for ",
                         absl::FormatDuration(timeout_)));
    if (!broken_.empty()) return absl::UnavailableError(broken_);
    const std::string message = std::move(box.front());
    box.pop_front();
    TESSERA_CHECK(static_cast<int64_t>(message.size()) == bytes, "rank ", from, " sent ",
                  message.size(), " bytes, rank ", to, " takes ", bytes);
    std::memcpy(data, message.data(), message.size());
    return absl::OkStatus();
  }

  void Abort(int rank) {
    absl::MutexLock lock(&mutex_);
    Break(absl::StrCat("the group was aborted by rank ", rank));
  }

 private:
  // The first reason stays.
  void Break(std::string reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (broken_.empty()) broken_ = std::move(reason);
  }

  absl::Status Barrier(int rank, const char* operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!broken_.empty()) return absl::UnavailableError(broken_);
    const uint64_t round = round_;
    if (++arrived_ == ranks_) {
      arrived_ = 0;
      ++round_;
      return absl::OkStatus();
    }
    auto over = [&] { return round_ != round || !broken_.empty(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&over), timeout_))
      Break(absl::StrCat(operation, " of rank ", rank, ": ", ranks_ - arrived_, " of ", ranks_,
                         " ranks did not join for ", absl::FormatDuration(timeout_)));
    // A round that completed counts, whatever broke the group since.
    return round_ != round ? absl::OkStatus() : absl::UnavailableError(broken_);
  }

  const int ranks_;
  const absl::Duration timeout_;
  absl::Mutex mutex_;
  int arrived_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t round_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string broken_ ABSL_GUARDED_BY(mutex_);  // why nothing works any more; empty while it does
  std::vector<Offer> offers_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<int, int>, std::deque<std::string>> mail_ ABSL_GUARDED_BY(mutex_);
};

class LoopbackCommunicator : public Communicator {
 public:
  LoopbackCommunicator(std::shared_ptr<LoopbackGroup> group, int rank, const Ops& ops)
      : group_(std::move(group)), rank_(rank), ops_(ops) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->ranks(); }

  absl::Status AllReduceSum(void* data, int64_t count, DType dtype, const Stream&) override {
    RETURN_IF_ERROR(CheckSum(count, dtype));
    const int64_t bytes = count * SizeOf(dtype);
    RETURN_IF_ERROR(group_->Join(rank_, {.operation = "all-reduce", .bytes = bytes, .data = data}));
    std::vector<const void*> parts;
    for (int r = 0; r < size(); ++r) parts.push_back(group_->data(r));
    std::vector<char> sum(static_cast<size_t>(bytes));
    SumInOrder(parts, count, dtype, sum.data());
    RETURN_IF_ERROR(group_->Leave(rank_, "all-reduce"));
    if (bytes > 0) std::memcpy(data, sum.data(), sum.size());
    return absl::OkStatus();
  }

  absl::Status AllReduceNorm(const AllReduceNormArgs& args, const Stream& stream) override {
    RETURN_IF_ERROR(CheckAllReduceNorm(args));
    RETURN_IF_ERROR(AllReduceSum(args.partial, args.t * args.d, args.dtype, stream));
    return AddResidualAndNorm(args, ops_, stream);
  }

  absl::Status AllGather(const void* send, void* recv, int64_t bytes, const Stream&) override {
    RETURN_IF_ERROR(CheckBytes(bytes));
    RETURN_IF_ERROR(group_->Join(rank_, {.operation = "all-gather", .bytes = bytes, .data = send}));
    for (int r = 0; r < size() && bytes > 0; ++r) {
      char* part = static_cast<char*>(recv) + r * bytes;
      if (part != send) std::memcpy(part, group_->data(r), static_cast<size_t>(bytes));
    }
    return group_->Leave(rank_, "all-gather");
  }

  absl::Status Send(const void* data, int64_t bytes, int peer, const Stream&) override {
    RETURN_IF_ERROR(CheckTransfer(bytes, peer, rank_, size()));
    return group_->Send(rank_, peer, data, bytes);
  }

  absl::Status Recv(void* data, int64_t bytes, int peer, const Stream&) override {
    RETURN_IF_ERROR(CheckTransfer(bytes, peer, rank_, size()));
    return group_->Recv(peer, rank_, data, bytes);
  }

  absl::Status Broadcast(void* data, int64_t bytes, int root, const Stream&) override {
    RETURN_IF_ERROR(CheckBroadcast(bytes, root, size()));
    RETURN_IF_ERROR(group_->Join(
        rank_, {.operation = "broadcast", .bytes = bytes, .root = root, .data = data}));
    if (rank_ != root && bytes > 0)
      std::memcpy(data, group_->data(root), static_cast<size_t>(bytes));
    return group_->Leave(rank_, "broadcast");
  }

  void Abort() override { group_->Abort(rank_); }

 private:
  const std::shared_ptr<LoopbackGroup> group_;
  const int rank_;
  const Ops& ops_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> NewLoopbackGroup(int ranks, const Ops& ops,
                                                            absl::Duration timeout) {
  TESSERA_CHECK(ranks > 0, "ranks=", ranks);
  auto group = std::make_shared<LoopbackGroup>(ranks, timeout);
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int r = 0; r < ranks; ++r)
    communicators.push_back(std::make_unique<LoopbackCommunicator>(group, r, ops));
  return communicators;
}

}  // namespace tessera
