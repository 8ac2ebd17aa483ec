#include "parallel/bounded_call.h"

#include <memory>
#include <thread>
#include <utility>

#include <absl/synchronization/notification.h>

namespace tessera {

bool CallWithin(absl::Duration timeout, std::function<void()> call) {
  auto done = std::make_shared<absl::Notification>();
  std::thread([done, call = std::move(call)] {
    call();
    done->Notify();
  }).detach();
  return done->WaitForNotificationWithTimeout(timeout);
}

}  // namespace tessera
