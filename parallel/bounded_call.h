// Calls into libraries that may never return.
#pragma once

#include <functional>

#include <absl/time/time.h>

namespace tessera {

// Runs `call` in a thread of its own and returns true when it is done within `timeout`. Otherwise
// the thread goes on by itself, so `call` owns all it uses.
bool CallWithin(absl::Duration timeout, std::function<void()> call);

}  // namespace tessera
