// Waiting for a peer by polling, without keeping a core from ranks that have work.
#pragma once

#include <absl/time/time.h>

namespace tessera {

// Pause() between polls: at first it only yields the core, for latency; after `yield_for` it sleeps
// a sixteenth of the time waited so far, but at most `longest_sleep`. A poll every 2 ms costs under
// 1 % of a core.
class BackOff {
 public:
  explicit BackOff(absl::Duration yield_for = absl::Microseconds(100),
                   absl::Duration longest_sleep = absl::Milliseconds(2));

  void Pause();
  absl::Duration waited() const { return waited_; }

 private:
  const absl::Duration yield_for_, longest_sleep_;
  const absl::Time start_;
  absl::Duration waited_ = absl::ZeroDuration();
};

}  // namespace tessera
