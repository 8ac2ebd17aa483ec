// How much may wait for one model: choices accepted whose first step has not come yet.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

namespace tessera {

struct QueueLimits {
  int64_t requests = 1024;  // choices, as each is a sequence of its own
  int64_t tokens = int64_t{4} << 20;
  int64_t bytes = int64_t{256} << 20;
};

// One request's, or one choice's, part of the queue.
struct QueueLoad {
  int64_t requests = 0;
  int64_t tokens = 0;  // of prompts
  int64_t bytes = 0;   // of memory held for it
};

// What a refused client is told to wait, in the trailing metadata `retry-after-ms`.
inline constexpr int64_t kRetryAfterMs = 1000;

// Not thread-safe: its owner's mutex guards it.
class Admission {
 public:
  explicit Admission(const QueueLimits& limits) : limits_(limits) {}

  // Counts `load` in. An empty queue takes any load: a request's own size is bounded elsewhere.
  // kResourceExhausted: a limit would be passed (it is named, with the counts); nothing is counted.
  absl::Status Enter(const QueueLoad& load);
  void Leave(const QueueLoad& load);

  const QueueLoad& queued() const { return queued_; }

 private:
  QueueLimits limits_;
  QueueLoad queued_;
};

}  // namespace tessera
