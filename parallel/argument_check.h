// What every communicator refuses before it does anything.
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "parallel/communicator.h"

namespace tessera {

// kInvalidArgument: negative count. kUnimplemented: an integer dtype.
absl::Status CheckSum(int64_t count, DType dtype);
// kInvalidArgument: a negative t or d, or a weight without y. kUnimplemented: an integer dtype.
absl::Status CheckAllReduceNorm(const AllReduceNormArgs& args);
// kInvalidArgument: negative bytes.
absl::Status CheckBytes(int64_t bytes);
// kInvalidArgument: negative bytes, a peer outside [0, size) or the rank itself.
absl::Status CheckTransfer(int64_t bytes, int peer, int rank, int size);
// kInvalidArgument: negative bytes or a root outside [0, size).
absl::Status CheckBroadcast(int64_t bytes, int root, int size);

}  // namespace tessera
