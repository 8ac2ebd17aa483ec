// What the tests of both links share: how they connect, and what they hear of the end.
#pragma once

#include <functional>

#include <absl/status/status.h>
#include <absl/time/time.h>
#include <gtest/gtest.h>

#include "tests/worker/link/scripted_coordinator.h"
#include "tests/worker/link/signal.h"
#include "worker/link/link_options.h"

namespace tessera::testing {

inline constexpr absl::Duration kPatience = absl::Seconds(20);  // far beyond what anything takes

// The coordinator, and what its scripts share with their tests, are the derived class's, in that
// order from the end: a script may outlast the test's body.
class LinkTest : public ::testing::Test {
 protected:
  LinkOptions OptionsFor(const ScriptedCoordinator& coordinator) const {
    return {.address = coordinator.address(),
            .secret = "s",
            .connect_timeout = timeout_,
            .heartbeat_period = absl::Milliseconds(5)};
  }
  // The on_lost event.
  std::function<void(const absl::Status&)> TakeLoss() {
    return [this](const absl::Status& status) {
      why_lost_ = status;
      lost_.Notify();
    };
  }

  absl::Duration timeout_ = kPatience;
  absl::Status why_lost_;
  Signal lost_;
};

}  // namespace tessera::testing
