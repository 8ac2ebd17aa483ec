// Which blocks of the KV cache are free.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera {

// Blocks 0 .. count - 1, handed out lowest first after a start and most recently freed first after
// that. Not thread-safe: the engine thread owns it. A block is safe to hand out again at once,
// since steps run in order.
class BlockPool {
 public:
  explicit BlockPool(int64_t count);

  int64_t total() const { return total_; }
  int64_t available() const { return static_cast<int64_t>(free_.size()); }

  // Needs available() > 0.
  int32_t Take();
  void Return(const std::vector<int32_t>& blocks);

 private:
  int64_t total_;
  std::vector<int32_t> free_;  // a stack
};

}  // namespace tessera
