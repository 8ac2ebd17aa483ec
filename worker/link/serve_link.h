// A leader's stream for one loaded model: requests in, tokens out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "proto/cluster.pb.h"
#include "worker/link/link_options.h"

namespace tessera {

// Both run on the link's own thread, one at a time; they may call Send, never destroy the link.
struct ServeEvents {
  std::function<void(const internal::CoordinatorMessage&)> on_message;
  // At most once; also when the coordinator refuses the hello (kFailedPrecondition, with the
  // reason) or ends the stream because the model is unloaded (kUnavailable).
  std::function<void(const absl::Status&)> on_lost;
};

struct ServeTarget {
  int64_t epoch = 0;
  int64_t instance = 0;
};

class ServeLink {
 public:
  // Connects within options.connect_timeout and says hello. kUnavailable: no connection.
  static absl::StatusOr<std::unique_ptr<ServeLink>> Connect(const LinkOptions& options,
                                                            const ServeTarget& target,
                                                            ServeEvents events);
  ~ServeLink();  // ends the stream

  // Queues a message; never waits; safe from any thread (the engine's, too).
  // kResourceExhausted: 64 MiB are queued, so the coordinator has stopped reading; the stream is
  // ended and on_lost follows. kUnavailable: the stream has ended.
  absl::Status Send(internal::LeaderMessage message);

 private:
  struct Impl;
  explicit ServeLink(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera
