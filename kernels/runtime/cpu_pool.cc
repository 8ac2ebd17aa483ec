#include "kernels/runtime/cpu_pool.h"

#include <algorithm>

#include "common/check.h"

namespace tessera {

CpuPool::CpuPool(int threads) {
  TESSERA_CHECK(threads >= 1, "threads=", threads);
  workers_.reserve(static_cast<size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
}

CpuPool::~CpuPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  start_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void CpuPool::ParallelFor(int64_t count, int64_t grain,
                          const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  const int64_t most = count / std::max<int64_t>(grain, 1);
  const int parts = static_cast<int>(std::clamp<int64_t>(most, 1, threads()));
  if (parts == 1) {
    body(0, count);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    body_ = &body;
    count_ = count;
    parts_ = parts;
    unfinished_ = parts - 1;
    ++generation_;
  }
  start_.notify_all();
  RunPart(0);
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this] { return unfinished_ == 0; });
  body_ = nullptr;
}

void CpuPool::WorkerLoop(int index) {
  uint64_t seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    start_.wait(lock, [&] { return stopping_ || generation_ != seen; });
    if (stopping_) return;
    seen = generation_;
    if (index >= parts_) continue;  // a job too small for this thread
    lock.unlock();
    RunPart(index);
    lock.lock();
    if (--unfinished_ == 0) done_.notify_one();
  }
}

// The first count % parts parts are one index longer than the others.
void CpuPool::RunPart(int part) {
  const int64_t each = count_ / parts_, longer = count_ % parts_;
  const int64_t begin = part * each + std::min<int64_t>(part, longer);
  (*body_)(begin, begin + each + (part < longer ? 1 : 0));
}

}  // namespace tessera
