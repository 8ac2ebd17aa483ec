// Tells one thread that another has got somewhere. absl::Notification does the same, but lives in a
// library that ThreadSanitizer does not see into.
#pragma once

#include <condition_variable>
#include <mutex>

#include <absl/time/time.h>

namespace tessera::testing {

class Signal {
 public:
  void Notify() {
    std::lock_guard<std::mutex> lock(mu_);
    notified_ = true;
    changed_.notify_all();
  }
  // False: `timeout` passed first.
  bool WaitFor(absl::Duration timeout) {
    std::unique_lock<std::mutex> lock(mu_);
    return changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                             [this] { return notified_; });
  }
  bool notified() const {
    std::lock_guard<std::mutex> lock(mu_);
    return notified_;
  }

 private:
  mutable std::mutex mu_;
  std::condition_variable changed_;
  bool notified_ = false;
};

}  // namespace tessera::testing
