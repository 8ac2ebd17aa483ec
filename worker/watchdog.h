// Notices work that does not end.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include <absl/time/time.h>

namespace tessera {

// A thread with a clock of its own. The engine thread arms it around every step; when a step
// outlasts its allowance, `on_hang` is called once, on the watchdog's thread, and is expected to
// end the process.
class Watchdog {
 public:
  explicit Watchdog(std::function<void(const std::string& what)> on_hang);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // `what` must be a string literal. Two relaxed stores: cheap enough for every step.
  void Arm(absl::Duration allowance, const char* what);
  void Disarm();

 private:
  void Loop();

  std::function<void(const std::string&)> on_hang_;
  std::atomic<int64_t> deadline_ns_{0};  // steady clock; 0: disarmed
  std::atomic<const char*> what_{""};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace tessera
