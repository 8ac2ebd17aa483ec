// Text that users keep in files.
#pragma once

#include <string>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

namespace tessera {

// The text of `path`, unchanged; "-" reads standard input. Errors of ReadFile(), and
// kInvalidArgument: past 64 MiB, or not UTF-8 (says at which byte).
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

// Number of leading bytes of `text` that are whole, well-formed UTF-8 characters (RFC 3629).
size_t ValidUtf8Prefix(absl::string_view text);

}  // namespace tessera
