#include "coordinator/drain_gate.h"

#include <algorithm>
#include <utility>

namespace tessera {

void DrainGate::Request(absl::Duration grace, std::function<void()> done) {
  {
    std::lock_guard<std::mutex> lock(mu_);
    grace_ = std::min(grace, grace_.value_or(grace));
    changed_.notify_all();
    if (done == nullptr) return;
    if (!finished_) {
      waiters_.push_back(std::move(done));
      return;
    }
  }
  done();
}

absl::Duration DrainGate::Wait() {
  std::unique_lock<std::mutex> lock(mu_);
  changed_.wait(lock, [this] { return grace_.has_value(); });
  return *grace_;
}

absl::Duration DrainGate::grace() const {
  std::lock_guard<std::mutex> lock(mu_);
  return *grace_;
}

void DrainGate::Finish() {
  std::vector<std::function<void()>> waiters;
  {
    std::lock_guard<std::mutex> lock(mu_);
    finished_ = true;
    waiters.swap(waiters_);
  }
  for (const auto& done : waiters) done();
}

}  // namespace tessera
