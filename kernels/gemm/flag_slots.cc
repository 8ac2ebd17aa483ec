#include "kernels/gemm/flag_slots.h"

#include <algorithm>
#include <array>
#include <mutex>

namespace tessera {

int FlagSlotOf(const void* workspace) {
  static std::mutex mutex;
  static std::array<const void*, kFlagSlots> owners = {};
  static int next = 0;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto* const found = std::find(owners.begin(), owners.end(), workspace);
  if (found != owners.end()) return static_cast<int>(found - owners.begin());
  const int slot = next;
  next = (next + 1) % kFlagSlots;
  owners[static_cast<size_t>(slot)] = workspace;
  return slot;
}

}  // namespace tessera
