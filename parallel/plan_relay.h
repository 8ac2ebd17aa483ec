// Plans between hosts: the leader's sending half and the receiving half of each other host's head.
// A plan travels as messages small enough for MPI to send without the leader's further help, so
// that the leader can go on with its step.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>
#include <absl/types/span.h>
#include <mpi.h>

#include "parallel/back_off.h"

namespace tessera {

// Rank 0 of `heads`, the group of one rank per host.
class PlanSender {
 public:
  PlanSender(MPI_Comm heads, int64_t capacity_plans, absl::Duration timeout)
      : heads_(heads), capacity_plans_(capacity_plans), timeout_(timeout) {}
  // Waits until all plans are taken, for `timeout` at most: their memory is MPI's until then.
  ~PlanSender();
  PlanSender(const PlanSender&) = delete;
  PlanSender& operator=(const PlanSender&) = delete;

  // Copies `plan` and starts sending it to all other heads. kDeadlineExceeded: after `timeout`
  // capacity_plans earlier plans were still not taken by some head. kInternal: MPI refused.
  absl::Status Send(absl::Span<const uint8_t> plan);

 private:
  struct Flight {
    std::vector<uint8_t> message;
    std::vector<MPI_Request> requests;
  };
  absl::StatusOr<bool> OldestArrived();

  const MPI_Comm heads_;
  const int64_t capacity_plans_;
  const absl::Duration timeout_;
  std::deque<Flight> flights_;  // oldest first
};

// Any other rank of `heads`.
class PlanReceiver {
 public:
  PlanReceiver(MPI_Comm heads, int64_t max_plan_bytes);
  ~PlanReceiver();
  PlanReceiver(const PlanReceiver&) = delete;
  PlanReceiver& operator=(const PlanReceiver&) = delete;

  // The next plan, readable until the next call. kDeadlineExceeded: none complete within `timeout`.
  // kInternal: MPI refused, or what came is no plan.
  absl::StatusOr<absl::Span<const uint8_t>> Receive(absl::Duration timeout);

 private:
  absl::StatusOr<bool> PollFragment();
  absl::StatusOr<bool> PlanComplete() const;

  const MPI_Comm heads_;
  const int64_t max_plan_bytes_;
  std::vector<uint8_t> message_;  // the plan's bytes as int64, then the plan, with room to spare
  int64_t have_bytes_ = 0;        // of message_
  bool handed_out_ = false;       // message_ is the plan of the last call
  MPI_Request pending_ = MPI_REQUEST_NULL;
  std::optional<BackOff> back_off_;  // since the last plan
};

}  // namespace tessera
