// Reading small files whole.
#pragma once

#include <cstdint>
#include <string>

#include <absl/status/statusor.h>

namespace tessera {

// The bytes of the regular file at `path`. Every error names the path.
// kNotFound: nothing is there. kInvalidArgument: not a regular file, or larger than `max_bytes`
// (the file is then not read). kPermissionDenied: it may not be opened. kDataLoss: the read broke
// off, or the file changed its size meanwhile.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes);

}  // namespace tessera
