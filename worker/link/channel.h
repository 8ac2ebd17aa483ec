// The gRPC channel of a worker and the metadata its calls carry. Internal to worker/link.
#pragma once

#include <memory>

#include <absl/status/status.h>
#include <absl/time/time.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include "worker/link/link_options.h"

namespace tessera {

// With keepalive, so that a coordinator that stopped answering ends the calls within 20 s.
std::shared_ptr<grpc::Channel> MakeChannel(const LinkOptions& options);

// kUnavailable, naming the address: not connected at `deadline`.
absl::Status WaitForConnection(grpc::Channel& channel, const LinkOptions& options,
                               absl::Time deadline);

// A context that carries the launch's secret. It has no deadline: the streams last as long as the
// process, and keepalive bounds the wait for a dead peer.
std::unique_ptr<grpc::ClientContext> MakeContext(const LinkOptions& options);

absl::Status ToAbslStatus(const grpc::Status& status);

}  // namespace tessera
