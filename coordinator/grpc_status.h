// absl::Status as gRPC's; the codes have the same numbers.
#pragma once

#include <absl/status/status.h>
#include <grpcpp/support/status.h>

namespace tessera {

// The message is cut to 4,096 bytes: trailers are limited to 8 KiB.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace tessera
