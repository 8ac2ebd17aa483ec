// One rank of a pool: waits for the coordinator's commands, holds its part of a model, takes part
// in its steps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include <absl/status/status.h>

#include "kernels/ops.h"
#include "kernels/runtime/runtime.h"
#include "worker/leader.h"
#include "worker/link/control_link.h"
#include "worker/loaded_model.h"
#include "worker/watchdog.h"

namespace tessera {

struct WorkerOptions {
  LinkOptions link;
  int pool_rank = 0, pool_ranks = 1;
  int64_t trace_context = 0;  // > 0: a decode step at this context is timed op by op after loading
  int local_ranks = 1;        // ranks of this host: CPU ranks share its memory
};

class Worker {
 public:
  Worker(WorkerOptions options, Runtime& runtime, const Ops& ops);

  // Registers and serves until the coordinator says Shutdown. On the engine thread, which has
  // initialised MPI with MPI_THREAD_FUNNELED. Errors: as ControlLink::Connect(); any other trouble
  // ends the process with a message.
  absl::Status Run();

 private:
  void OnCommand(const internal::WorkerCommand& command);  // link thread
  void OnCoordinatorLost(const absl::Status& why);         // link thread
  void OnHang(const std::string& what);                    // watchdog thread

  // Null: shut down.
  std::unique_ptr<internal::LoadShard> NextLoad();
  void Serve(const internal::LoadShard& command);
  absl::Status Lead(LoadedModel& model);
  absl::Status Follow(LoadedModel& model);
  bool ShuttingDown();
  [[noreturn]] void Die(const std::string& why);

  WorkerOptions options_;
  Runtime& runtime_;
  const Ops& ops_;
  std::unique_ptr<OpTrace> trace_;  // null: steps are not traced
  std::atomic<int64_t> steps_{0};
  std::atomic<bool> leaving_{false};  // the coordinator may go away from here on
  Watchdog watchdog_;
  std::unique_ptr<ControlLink> control_;  // set once, before registered_; others read it after
  std::atomic<bool> registered_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<internal::LoadShard> loads_;  // guarded by mutex_
  bool shutdown_ = false;                  // guarded by mutex_
  std::shared_ptr<Inbox> inbox_;           // guarded by mutex_: of the model this rank leads
  int64_t inbox_instance_ = 0;             // guarded by mutex_
};

}  // namespace tessera
