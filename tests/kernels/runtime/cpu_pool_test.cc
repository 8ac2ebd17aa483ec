#include "kernels/runtime/cpu_pool.h"

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(CpuPool, CoversEveryIndexOnceWhateverTheThreadCount) {
  for (int threads : {1, 2, 3, 7}) {
    CpuPool pool(threads);
    for (int64_t count : {0, 1, 2, 6, 7, 8, 1000}) {
      std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
      pool.ParallelFor(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
      });
      for (const auto& v : visits) EXPECT_EQ(v.load(), 1) << threads << " threads, " << count;
    }
  }
}

TEST(CpuPool, PartsHaveAtLeastGrainIndices) {
  CpuPool pool(4);
  for (int64_t count : {10, 19, 20, 21, 39, 1000}) {
    std::atomic<int64_t> smallest = count;
    pool.ParallelFor(count, 10, [&](int64_t begin, int64_t end) {
      int64_t seen = smallest;
      while (end - begin < seen && !smallest.compare_exchange_weak(seen, end - begin)) {
      }
    });
    EXPECT_GE(smallest.load(), 10) << count;
  }
}

TEST(CpuPool, SmallWorkStaysOnTheCallingThread) {
  CpuPool pool(4);
  std::thread::id ran_on;
  pool.ParallelFor(19, 10, [&](int64_t, int64_t) { ran_on = std::this_thread::get_id(); });
  EXPECT_EQ(ran_on, std::this_thread::get_id());
}

TEST(CpuPool, ManyShortJobsInARowAllFinish) {
  CpuPool pool(3);
  std::atomic<int64_t> sum = 0;
  for (int job = 0; job < 20000; ++job)
    pool.ParallelFor(2 + job % 3, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
  int64_t expected = 0;
  for (int job = 0; job < 20000; ++job) expected += 2 + job % 3;
  EXPECT_EQ(sum.load(), expected);
}

}  // namespace
}  // namespace tessera
