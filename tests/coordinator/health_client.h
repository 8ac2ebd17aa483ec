// Asks grpc.health.v1.Health/Check, whose .proto Debian does not ship: the two messages have one
// field each (https://github.com/grpc/grpc/blob/master/doc/health-checking.md).
#pragma once

#include <string>

#include <grpcpp/channel.h>

namespace tessera::testing {

// Whether `service` (empty: the server) is SERVING; false for any other answer.
bool CheckHealth(grpc::ChannelInterface& channel, const std::string& service);

}  // namespace tessera::testing
