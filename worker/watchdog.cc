#include "worker/watchdog.h"

#include <chrono>
#include <utility>

namespace tessera {
namespace {

constexpr std::chrono::milliseconds kPeriod(250);

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

Watchdog::Watchdog(std::function<void(const std::string&)> on_hang)
    : on_hang_(std::move(on_hang)), thread_([this] { Loop(); }) {}

Watchdog::~Watchdog() {
  stopping_.store(true);
  thread_.join();
}

void Watchdog::Arm(absl::Duration allowance, const char* what) {
  what_.store(what, std::memory_order_relaxed);
  deadline_ns_.store(NowNs() + absl::ToInt64Nanoseconds(allowance), std::memory_order_relaxed);
}

void Watchdog::Disarm() { deadline_ns_.store(0, std::memory_order_relaxed); }

void Watchdog::Loop() {
  while (!stopping_.load()) {
    std::this_thread::sleep_for(kPeriod);
    const int64_t deadline = deadline_ns_.load(std::memory_order_relaxed);
    if (deadline == 0 || NowNs() < deadline) continue;
    on_hang_(what_.load(std::memory_order_relaxed));
    return;
  }
}

}  // namespace tessera
