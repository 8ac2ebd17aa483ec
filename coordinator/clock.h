// Time as the coordinator sees it; tests put their own in its place.
#pragma once

#include <cstdint>

namespace tessera {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t SteadyUs() const = 0;  // since an arbitrary moment; never goes back
  virtual int64_t UnixUs() const = 0;    // what workers on other hosts compare with
};

// The machine's clocks; lives for ever.
const Clock& SystemClock();

}  // namespace tessera
