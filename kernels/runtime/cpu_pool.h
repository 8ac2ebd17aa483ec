// Threads for the CPU back end.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tessera {

// A fixed set of threads that split index ranges. Which thread computes an index never changes
// what is computed for it, so results do not depend on the thread count. Used by one caller at a
// time; idle threads sleep.
class CpuPool {
 public:
  // `threads` >= 1 counts the calling thread.
  explicit CpuPool(int threads);
  ~CpuPool();
  CpuPool(const CpuPool&) = delete;
  CpuPool& operator=(const CpuPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end) on contiguous parts that cover [0, count) once; returns when all are
  // done. Parts have at least `grain` indices, so small work stays on the calling thread.
  void ParallelFor(int64_t count, int64_t grain,
                   const std::function<void(int64_t begin, int64_t end)>& body);

 private:
  void WorkerLoop(int index);
  void RunPart(int part);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_, done_;
  // The job under way, guarded by mutex_ for hand-over and constant while it runs.
  const std::function<void(int64_t, int64_t)>* body_ = nullptr;
  int64_t count_ = 0;
  int parts_ = 0;
  int unfinished_ = 0;
  uint64_t generation_ = 0;
  bool stopping_ = false;
};

}  // namespace tessera
