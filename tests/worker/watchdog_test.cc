#include "worker/watchdog.h"

#include <future>
#include <string>

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(Watchdog, ReportsWorkThatOutlastsItsAllowance) {
  std::promise<std::string> reported;
  Watchdog watchdog([&](const std::string& what) { reported.set_value(what); });
  watchdog.Arm(absl::Milliseconds(1), "a step");
  std::future<std::string> what = reported.get_future();
  ASSERT_EQ(what.wait_for(std::chrono::seconds(10)), std::future_status::ready);
  EXPECT_EQ(what.get(), "a step");
}

TEST(Watchdog, DisarmedInTimeItStaysQuiet) {
  bool reported = false;
  {
    Watchdog watchdog([&](const std::string&) { reported = true; });
    watchdog.Arm(absl::Hours(1), "a step");
    watchdog.Disarm();
  }
  EXPECT_FALSE(reported);
}

}  // namespace
}  // namespace tessera
