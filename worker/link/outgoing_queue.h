// A bounded queue of protobuf messages between any number of senders and one writer thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include <absl/base/thread_annotations.h>
#include <absl/time/time.h>

namespace tessera {

enum class PushResult : uint8_t { kQueued, kFull, kClosed };

template <typename Message>
class OutgoingQueue {
 public:
  explicit OutgoingQueue(int64_t max_bytes) : max_bytes_(max_bytes) {}

  // Never waits. kFull: the bytes queued and this message's exceed the bound; it is not queued.
  PushResult Push(Message message) {
    const auto bytes = static_cast<int64_t>(message.ByteSizeLong());
    std::lock_guard<std::mutex> lock(mu_);
    if (closed_) return PushResult::kClosed;
    if (bytes_ + bytes > max_bytes_) return PushResult::kFull;
    bytes_ += bytes;
    messages_.emplace_back(std::move(message), bytes);
    changed_.notify_all();
    return PushResult::kQueued;
  }

  // The oldest message, once there is one; nullopt when `timeout` passes or the queue is closed.
  std::optional<Message> Pop(absl::Duration timeout) {
    std::unique_lock<std::mutex> lock(mu_);
    idle_ = messages_.empty();
    if (idle_) changed_.notify_all();
    changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                      [this] { return closed_ || !messages_.empty(); });
    if (closed_ || messages_.empty()) return std::nullopt;
    auto [message, bytes] = std::move(messages_.front());
    messages_.pop_front();
    bytes_ -= bytes;
    idle_ = false;
    return std::move(message);
  }

  // Waits until the writer has come back for more and found nothing. False: `timeout` passed or
  // the queue was closed first.
  bool Flush(absl::Duration timeout) {
    std::unique_lock<std::mutex> lock(mu_);
    changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                      [this] { return closed_ || (idle_ && messages_.empty()); });
    return !closed_ && idle_ && messages_.empty();
  }

  // Drops what is queued; wakes everyone.
  void Close() {
    std::lock_guard<std::mutex> lock(mu_);
    closed_ = true;
    messages_.clear();
    bytes_ = 0;
    changed_.notify_all();
  }

  bool closed() const {
    std::lock_guard<std::mutex> lock(mu_);
    return closed_;
  }

 private:
  const int64_t max_bytes_;
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::deque<std::pair<Message, int64_t>> messages_ ABSL_GUARDED_BY(mu_);
  int64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool idle_ ABSL_GUARDED_BY(mu_) = false;  // the writer waits: all it took is written
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace tessera
