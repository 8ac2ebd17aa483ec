#include "worker/block_pool.h"

#include "common/check.h"

namespace tessera {

BlockPool::BlockPool(int64_t count) : total_(count) {
  free_.reserve(static_cast<size_t>(count));
  for (int64_t b = count - 1; b >= 0; --b) free_.push_back(static_cast<int32_t>(b));
}

int32_t BlockPool::Take() {
  TESSERA_CHECK(!free_.empty(), "no free KV block of ", total_);
  const int32_t block = free_.back();
  free_.pop_back();
  return block;
}

void BlockPool::Return(const std::vector<int32_t>& blocks) {
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) free_.push_back(*it);
  TESSERA_CHECK(available() <= total_, "more KV blocks returned than there are: ", available());
}

}  // namespace tessera
