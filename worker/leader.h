// The leader rank's loop for one model: requests in, steps out, tokens back.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <vector>

#include <absl/status/status.h>

#include "proto/cluster.pb.h"
#include "worker/link/serve_link.h"
#include "worker/loaded_model.h"
#include "worker/scheduler.h"
#include "worker/watchdog.h"

namespace tessera {

// Where other threads leave messages for the engine thread.
class Inbox {
 public:
  void Put(const internal::CoordinatorMessage& message);
  void Stop();
  // All messages so far; with `wait`, sleeps until there is one or Stop() was called. False:
  // stopped.
  bool Take(bool wait, std::vector<internal::CoordinatorMessage>& messages);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<internal::CoordinatorMessage> messages_;  // guarded by mutex_
  bool stopped_ = false;                                // guarded by mutex_
};

class Leader {
 public:
  // All outlive the leader. `steps` counts executed steps for heartbeats.
  Leader(LoadedModel& model, ServeLink& link, Inbox& inbox, Watchdog& watchdog,
         std::atomic<int64_t>& steps);

  // Runs until the inbox is stopped, then ends the followers' loops and waits for the device. On
  // the engine thread. Errors are of the group as a whole (device, peers): the process should end.
  absl::Status Run();

 private:
  absl::Status Loop();
  void Receive(const std::vector<internal::CoordinatorMessage>& messages);
  absl::Status Issue(const StepDraft& draft);
  absl::Status CollectOne();
  absl::Status CollectFinished();
  void Send();
  void SendStats();

  LoadedModel& model_;
  ServeLink& link_;
  Inbox& inbox_;
  Watchdog& watchdog_;
  std::atomic<int64_t>& steps_;
  Scheduler scheduler_;
  int64_t max_in_flight_;
  std::deque<absl::Duration> allowances_;  // of the steps in flight
  std::vector<uint8_t> plan_;
  std::vector<SequenceUpdate> updates_;
  internal::TokenBatch batch_;
  int64_t issued_ = 0;
  absl::Time last_stats_ = absl::InfinitePast();
};

}  // namespace tessera
