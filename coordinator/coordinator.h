// The coordinator as a whole: state, services and server, from start to drain.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include "coordinator/auth.h"
#include "coordinator/clock.h"
#include "coordinator/cluster.h"
#include "coordinator/server.h"
#include "coordinator/write_stream_options.h"

namespace tessera {

struct CoordinatorOptions {
  ServerOptions server;
  AuthOptions auth;
  ClusterOptions cluster;
  WriteStreamOptions streams;
};

class Coordinator {
 public:
  // Listens at once. Errors: those of Server::Start; kInvalidArgument: no launch secret.
  // `clock` is borrowed and outlives the coordinator.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Start(const CoordinatorOptions& options,
                                                            PlanFunction find_plan,
                                                            const Clock& clock);
  ~Coordinator();

  const std::string& address() const;  // HOST:PORT

  // Asks for a drain; safe from any thread.
  void RequestDrain(absl::Duration grace);
  // Waits for RequestDrain or the Drain RPC and carries it out: no more admission, running
  // requests until they end or the grace is over, then kUnavailable for the rest and Shutdown for
  // the ranks.
  void RunUntilDrained();

 private:
  struct Impl;
  explicit Coordinator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera
