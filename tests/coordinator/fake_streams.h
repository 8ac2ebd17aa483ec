// Test doubles of the two interfaces that Serving and Cluster talk to.
#pragma once

#include <mutex>
#include <optional>
#include <vector>

#include "coordinator/clock.h"
#include "coordinator/event_sink.h"
#include "coordinator/out_stream.h"

namespace tessera::testing {

template <typename Message>
class FakeOutStream final : public OutStream<Message> {
 public:
  bool Send(const Message& message) override {
    if (!status.has_value()) sent.push_back(message);
    return !status.has_value();
  }
  void Close(const absl::Status& why) override {
    if (!status.has_value()) status = why;
  }
  std::vector<Message> sent;
  std::optional<absl::Status> status;  // once closed
};

class FakeSink final : public EventSink {
 public:
  bool Push(v1::GenerateEvent event) override {
    if (events.size() >= room) return false;
    events.push_back(std::move(event));
    return true;
  }
  void End(const absl::Status& why) override {
    ++ends;
    if (!status.has_value()) status = why;
  }
  size_t room = 1000;  // events it takes
  std::vector<v1::GenerateEvent> events;
  std::optional<absl::Status> status;  // once ended
  int ends = 0;
};

class FakeClock final : public Clock {
 public:
  int64_t SteadyUs() const override { return steady_us; }
  int64_t UnixUs() const override { return unix_us; }
  void Advance(int64_t us) {
    steady_us += us;
    unix_us += us;
  }
  int64_t steady_us = 5'000'000;
  int64_t unix_us = 1'700'000'000'000'000;
};

}  // namespace tessera::testing
