// A few threads for work that is too long for gRPC's own: tokenizing, reading files, planning.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include <absl/base/thread_annotations.h>

namespace tessera {

class Executor {
 public:
  Executor(int threads, size_t max_queued);
  ~Executor();  // runs what is queued, then joins

  // Queues `task`. False: max_queued tasks wait already; the task is dropped.
  bool Run(std::function<void()> task);

 private:
  void Loop();

  const size_t max_queued_;
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace tessera
