#include "coordinator/clock.h"

#include <chrono>

namespace tessera {
namespace {

template <typename ClockType>
int64_t NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(ClockType::now().time_since_epoch())
      .count();
}

class MachineClock final : public Clock {
 public:
  int64_t SteadyUs() const override { return NowUs<std::chrono::steady_clock>(); }
  int64_t UnixUs() const override { return NowUs<std::chrono::system_clock>(); }
};

}  // namespace

const Clock& SystemClock() {
  static const MachineClock* clock = new MachineClock;  // never destroyed: threads may outlive main
  return *clock;
}

}  // namespace tessera
