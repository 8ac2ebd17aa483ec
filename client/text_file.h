// Text that users keep in files.
#pragma once

#include <cstdint>
#include <string>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

namespace tessera {

// What fits a request of 64 MiB, the most that the coordinator takes.
inline constexpr int64_t kMaxTextBytes = 63 << 20;

// The text of `path`, unchanged: of a file, or all that comes from a pipe or device until its end;
// "-" and "/dev/stdin" are standard input. Errors of ReadFile(), but that a pipe or a device is
// read, and kInvalidArgument: past kMaxTextBytes, or not UTF-8 (says at which byte). Other codes:
// what the system says of a read that breaks off.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

// Number of leading bytes of `text` that are whole, well-formed UTF-8 characters (RFC 3629).
size_t ValidUtf8Prefix(absl::string_view text);

// That `text` is UTF-8, which protobuf's strings must be. kInvalidArgument: names `what` and the
// byte.
absl::Status CheckUtf8(absl::string_view what, absl::string_view text);

}  // namespace tessera
