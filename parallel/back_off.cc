#include "parallel/back_off.h"

#include <sched.h>

#include <algorithm>

#include <absl/time/clock.h>

namespace tessera {

BackOff::BackOff(absl::Duration yield_for, absl::Duration longest_sleep)
    : yield_for_(yield_for), longest_sleep_(longest_sleep), start_(absl::Now()) {}

void BackOff::Pause() {
  waited_ = absl::Now() - start_;
  if (waited_ < yield_for_)
    sched_yield();
  else
    absl::SleepFor(std::min(waited_ / 16, longest_sleep_));
}

}  // namespace tessera
