// Where the wish to stop meets the thread that carries it out.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <vector>

#include <absl/base/thread_annotations.h>
#include <absl/time/time.h>

namespace tessera {

class DrainGate {
 public:
  // Asks for a drain; `done` (may be null) is called when it is over. Of several requests the
  // shortest grace counts. After the drain, `done` is called at once.
  void Request(absl::Duration grace, std::function<void()> done);
  // Waits for the first request, and returns its grace.
  absl::Duration Wait();
  // The shortest grace asked for so far; Wait has returned.
  absl::Duration grace() const;
  // Calls every `done`.
  void Finish();

 private:
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::optional<absl::Duration> grace_ ABSL_GUARDED_BY(mu_);
  std::vector<std::function<void()>> waiters_ ABSL_GUARDED_BY(mu_);
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace tessera
