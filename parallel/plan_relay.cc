#include "parallel/plan_relay.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "parallel/mpi_status.h"

namespace tessera {
namespace {

constexpr int kPlanTag = 1;
constexpr int64_t kHeaderBytes = sizeof(int64_t);
// Open MPI sends this much at once on every transport (its shared-memory one stops at 4096 bytes
// with headers); beyond, the leader would have to call MPI again before the rest leaves.
constexpr int64_t kFragmentBytes = 3840;

}  // namespace

PlanSender::~PlanSender() {
  BackOff back_off;
  while (!flights_.empty()) {
    const absl::StatusOr<bool> arrived = OldestArrived();
    if (arrived.ok() && *arrived) {
      flights_.pop_front();
    } else if (!arrived.ok() || back_off.waited() > timeout_) {
      LogError("plan channel: closed with ", flights_.size(), " plans not taken by other hosts");
      // MPI may still read them.
      new std::deque<Flight>(std::move(flights_));
      return;
    } else {
      back_off.Pause();
    }
  }
}

absl::StatusOr<bool> PlanSender::OldestArrived() {
  int done = 0;
  std::vector<MPI_Request>& requests = flights_.front().requests;
  RETURN_IF_MPI_ERROR(
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
      "plan channel: sending to other hosts");
  return done != 0;
}

absl::Status PlanSender::Send(absl::Span<const uint8_t> plan) {
  int heads = 0;
  RETURN_IF_MPI_ERROR(MPI_Comm_size(heads_, &heads), "plan channel: hosts");
  BackOff back_off;
  while (!flights_.empty()) {
    ASSIGN_OR_RETURN(const bool arrived, OldestArrived());
    if (arrived) {
      flights_.pop_front();
      continue;
    }
    if (static_cast<int64_t>(flights_.size()) < capacity_plans_) break;
    if (back_off.waited() > timeout_)
      return absl::DeadlineExceededError(absl::StrCat("plan channel: another host is ",
                                                      capacity_plans_, " plans behind for ",
                                                      absl::FormatDuration(timeout_)));
    back_off.Pause();
  }
  Flight& flight = flights_.emplace_back();
  const auto plan_bytes = static_cast<int64_t>(plan.size());
  flight.message.resize(static_cast<size_t>(kHeaderBytes + plan_bytes));
  std::memcpy(flight.message.data(), &plan_bytes, kHeaderBytes);
  std::copy(plan.begin(), plan.end(), flight.message.begin() + kHeaderBytes);
  for (int64_t at = 0; at < kHeaderBytes + plan_bytes; at += kFragmentBytes) {
    const int64_t bytes = std::min(kFragmentBytes, kHeaderBytes + plan_bytes - at);
    for (int head = 1; head < heads; ++head) {
      // Synchronous: done means the head has taken it, which is what bounds the plans in flight.
      RETURN_IF_MPI_ERROR(MPI_Issend(flight.message.data() + at, static_cast<int>(bytes), MPI_BYTE,
                                     head, kPlanTag, heads_, &flight.requests.emplace_back()),
                          "plan channel: sending to another host");
    }
  }
  return absl::OkStatus();
}

PlanReceiver::PlanReceiver(MPI_Comm heads, int64_t max_plan_bytes)
    : heads_(heads),
      max_plan_bytes_(max_plan_bytes),
      message_(static_cast<size_t>(kHeaderBytes + max_plan_bytes + kFragmentBytes)) {}

PlanReceiver::~PlanReceiver() {
  if (pending_ == MPI_REQUEST_NULL) return;
  MPI_Cancel(&pending_);
  MPI_Wait(&pending_, MPI_STATUS_IGNORE);  // local: a cancelled receive always completes
}

absl::StatusOr<bool> PlanReceiver::PlanComplete() const {
  if (have_bytes_ < kHeaderBytes) return false;
  int64_t plan_bytes = 0;
  std::memcpy(&plan_bytes, message_.data(), kHeaderBytes);
  if (plan_bytes < 0 || plan_bytes > max_plan_bytes_ || have_bytes_ > kHeaderBytes + plan_bytes)
    return absl::InternalError(absl::StrCat("plan channel: got ", have_bytes_ - kHeaderBytes,
                                            " bytes of a plan of ", plan_bytes, ", at most ",
                                            max_plan_bytes_, " were agreed"));
  return have_bytes_ == kHeaderBytes + plan_bytes;
}

absl::StatusOr<bool> PlanReceiver::PollFragment() {
  if (pending_ == MPI_REQUEST_NULL)
    RETURN_IF_MPI_ERROR(MPI_Irecv(message_.data() + have_bytes_, kFragmentBytes, MPI_BYTE, 0,
                                  kPlanTag, heads_, &pending_),
                        "plan channel: receiving from the leader's host");
  int done = 0, bytes = 0;
  MPI_Status status;
  RETURN_IF_MPI_ERROR(MPI_Test(&pending_, &done, &status),
                      "plan channel: receiving from the leader's host");
  if (!done) return false;
  RETURN_IF_MPI_ERROR(MPI_Get_count(&status, MPI_BYTE, &bytes), "plan channel: message size");
  have_bytes_ += bytes;
  return true;
}

absl::StatusOr<absl::Span<const uint8_t>> PlanReceiver::Receive(absl::Duration timeout) {
  if (handed_out_) have_bytes_ = 0;
  if (handed_out_ || !back_off_.has_value()) back_off_.emplace();
  handed_out_ = false;
  const absl::Time deadline = absl::Now() + timeout;
  while (true) {
    ASSIGN_OR_RETURN(const bool got, PollFragment());
    if (got) {
      ASSIGN_OR_RETURN(handed_out_, PlanComplete());
      if (handed_out_)
        return absl::MakeConstSpan(message_).subspan(
            kHeaderBytes, static_cast<size_t>(have_bytes_ - kHeaderBytes));
      back_off_.emplace();
      continue;
    }
    if (absl::Now() >= deadline)
      return absl::DeadlineExceededError(
          absl::StrCat("plan channel: no plan for ", absl::FormatDuration(timeout)));
    back_off_->Pause();
  }
}

}  // namespace tessera
