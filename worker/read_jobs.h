// Reading a checkpoint in parallel through a bounded set of buffers.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <absl/status/status.h>

#include "kernels/runtime/runtime.h"
#include "planner/memory_layout.h"

namespace tessera {

// Bytes of one staging buffer.
inline constexpr int64_t kStagingBytes = kRawBlockBytes;

// A piece of a load that fits one staging buffer.
struct ReadJob {
  int64_t bytes = 0;  // counted as progress
  // Fills `staging` (pinned, kStagingBytes); on a reader thread.
  std::function<absl::Status(char* staging)> read;
  // Takes what is in it to its place, enqueued on the side stream; on the calling thread, in any
  // order of jobs. May be empty.
  std::function<absl::Status(const char* staging)> place;
};

struct ReadOptions {
  int threads = 1;
  std::function<void(int64_t done, int64_t total)> progress;  // on the calling thread; may be empty
};

// Runs all jobs to their end: `threads` readers take them in order, each with a buffer of its own.
// The first error of a job, or of the runtime.
absl::Status RunJobs(const std::vector<ReadJob>& jobs, const ReadOptions& options,
                     Runtime& runtime);

}  // namespace tessera
