// A rank's life line to the coordinator: registration, commands in, reports and heartbeats out.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include "proto/cluster.pb.h"
#include "worker/link/link_options.h"

namespace tessera {

// Both run on the link's own thread, one at a time, and may begin before Connect has returned. They
// may call Report, never destroy the link.
struct ControlEvents {
  std::function<void(const internal::WorkerCommand&)> on_command;  // Welcome is not passed on
  std::function<void(const absl::Status&)> on_lost;                // at most once
};

class ControlLink {
 public:
  // Connects, registers and waits for Welcome, trying again while the coordinator is away, for at
  // most options.connect_timeout. `steps` (borrowed, outlives the link) is what heartbeats report;
  // one goes out every options.heartbeat_period from a thread that waits for nothing else.
  // kUnavailable or kDeadlineExceeded: no answer in time. kPermissionDenied: wrong secret.
  // kAlreadyExists: the rank is taken. kInvalidArgument: the pool has another size.
  static absl::StatusOr<std::unique_ptr<ControlLink>> Connect(const LinkOptions& options,
                                                              const internal::Register& self,
                                                              const std::atomic<int64_t>& steps,
                                                              ControlEvents events);
  ~ControlLink();  // Stop()

  // Ends the stream, so that the coordinator takes the rank for lost; on_lost is not called, and
  // what is queued may be dropped. Not from an event.
  void Stop();

  int64_t epoch() const;

  // Queues a report, with the pool's epoch filled in; never waits; safe from any thread. Reports
  // after the loss of the coordinator are dropped.
  void Report(internal::WorkerReport report);

  // Waits until all reports are handed to gRPC, for at most `timeout`; false: they are not.
  bool Flush(absl::Duration timeout);

 private:
  struct Impl;
  explicit ControlLink(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera
