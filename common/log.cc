#include "common/log.h"

#include <unistd.h>

#include <absl/strings/str_format.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>

namespace tessera {
namespace {

std::string& ProcessName() {
  static std::string* name = new std::string("tessera");  // never destroyed: logged at exit too
  return *name;
}

}  // namespace

void SetLogName(absl::string_view name) { ProcessName() = std::string(name); }

void LogLine(LogLevel level, absl::string_view text) {
  const char letter = level == LogLevel::kInfo ? 'I' : level == LogLevel::kWarning ? 'W' : 'E';
  const std::string line = absl::StrFormat(
      "%s %c %s: %s\n", absl::FormatTime("%Y-%m-%dT%H:%M:%E3S", absl::Now(), absl::UTCTimeZone()),
      letter, ProcessName(), text);
  // A log line that cannot be written has nowhere to be reported.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace tessera
