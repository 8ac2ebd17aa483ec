// How much a user's stream may hold back.
#pragma once

#include <chrono>
#include <cstdint>

namespace tessera {

struct WriteStreamOptions {
  int64_t max_buffered_bytes = 4 << 20;  // a single event may be larger
  // From the end of a stream to the reset of one whose user still does not read.
  std::chrono::milliseconds flush_grace{5'000};
};

}  // namespace tessera
