// A loaded model's device memory: one allocation, cut up as the memory layout says.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "kernels/runtime/runtime.h"
#include "planner/memory_layout.h"

namespace tessera {

class Arena {
 public:
  // Buffers of kCommunication, which peers map, get an allocation of their own. All memory but the
  // KV cache of a CPU rank is zeroed (that one would only be paged in early). kResourceExhausted:
  // names the bytes the layout needs and the bytes free. `runtime` must outlive the arena.
  static absl::StatusOr<std::unique_ptr<Arena>> Create(Runtime& runtime,
                                                       const std::vector<BufferSpec>& layout);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Null when the layout has no such buffer.
  void* Find(absl::string_view name) const;
  int64_t SizeOf(absl::string_view name) const;
  int64_t bytes() const { return bytes_; }

 private:
  struct Place {
    void* data = nullptr;
    int64_t bytes = 0;
  };

  explicit Arena(Runtime& runtime) : runtime_(runtime) {}

  Runtime& runtime_;
  std::vector<void*> allocations_;
  std::map<std::string, Place, std::less<>> places_;
  int64_t bytes_ = 0;
};

}  // namespace tessera
