// Ranks that speak the real WorkerLink protocol through worker/link, with scripted engines.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include "proto/cluster.pb.h"
#include "worker/link/control_link.h"
#include "worker/link/serve_link.h"

namespace tessera::testing {

inline constexpr char kSecret[] = "a secret of this launch";
inline constexpr absl::Duration kPatience = absl::Seconds(20);  // far beyond what anything takes

struct FakeWorkerOptions {
  LinkOptions link;
  int rank = 0;
  int ranks = 1;
  // The answer to LoadShard; the default is Loaded.
  std::function<internal::WorkerReport(const internal::LoadShard&)> on_load;
  // Whether a leader opens its Serve stream.
  bool serves = true;
};

// One rank. As leader it records what it is sent; the test plays the engine with Send.
class FakeWorker {
 public:
  static absl::StatusOr<std::unique_ptr<FakeWorker>> Start(FakeWorkerOptions options);
  ~FakeWorker();

  // Waits until request number `index` (from 0) has arrived.
  internal::Submit WaitForSubmit(size_t index);
  // Waits until `sequence` is cancelled; false: it is not.
  bool WaitForCancel(uint64_t sequence);
  // Waits for the Shutdown command, or the loss of the coordinator; false: neither came.
  bool WaitForShutdown();

  // Sends tokens of one sequence, with a finish reason at the end of them unless it is 0.
  void SendTokens(uint64_t sequence, const std::vector<int32_t>& ids,
                  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED);
  void Send(internal::LeaderMessage message);
  void Report(internal::WorkerReport report) { control_->Report(std::move(report)); }

  void EndServe();    // as when the leader's engine dies
  void EndControl();  // as when the process dies
  int64_t epoch() const { return control_->epoch(); }

 private:
  explicit FakeWorker(FakeWorkerOptions options) : options_(std::move(options)) {}
  void OnCommand(const internal::WorkerCommand& command);
  void OnMessage(const internal::CoordinatorMessage& message);
  template <typename Predicate>
  bool WaitUntil(Predicate predicate);

  const FakeWorkerOptions options_;
  std::atomic<int64_t> steps_{0};
  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<internal::Submit> submits_;
  std::vector<uint64_t> cancels_;
  bool shutdown_ = false;
  std::unique_ptr<ControlLink> control_;
  std::unique_ptr<ServeLink> serve_;
};

}  // namespace tessera::testing
