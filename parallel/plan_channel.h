// How the leader's step plans reach the other ranks of its group.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>
#include <absl/types/span.h>

namespace tessera {

// A one-way queue of byte strings from rank 0 of a group, the leader, to every other rank. Each
// rank's end is used by one thread. Plans arrive complete, in order, once.
class PlanChannel {
 public:
  virtual ~PlanChannel() = default;

  // Leader: copies `plan` and returns, normally without waiting. Waits when a rank is
  // `capacity_plans` behind. kFailedPrecondition: not the leader. kInvalidArgument: larger than
  // max_plan_bytes. kDeadlineExceeded: a rank took no plan for publish_timeout; the channel is then
  // of no more use. kInternal: the transport refused.
  virtual absl::Status Publish(absl::Span<const uint8_t> plan) = 0;

  // Others: the next plan, which stays readable until the next call; sleeps while there is none.
  // kDeadlineExceeded: none came within `timeout`; the next call goes on waiting for the same one.
  // kFailedPrecondition: called on the leader. kInternal: the transport refused.
  virtual absl::StatusOr<absl::Span<const uint8_t>> Next(absl::Duration timeout) = 0;
};

struct PlanChannelOptions {
  int64_t max_plan_bytes = 1 << 20;
  int64_t capacity_plans = 8;  // plans the slowest rank may be behind before Publish waits
  absl::Duration publish_timeout = absl::Seconds(5);
  // How long Next polls shared memory before it sleeps: saves the wake-up (0.1-0.4 ms) where each
  // rank has a core to itself. Zero where ranks share cores.
  absl::Duration spin = absl::ZeroDuration();
};

// Ends of a channel between threads of one process, element i for rank i; for tests. The options'
// sizes are positive. The ends may die in any order.
std::vector<std::unique_ptr<PlanChannel>> NewLoopbackPlanChannels(
    int ranks, const PlanChannelOptions& options);

}  // namespace tessera
