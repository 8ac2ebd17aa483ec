// Runs one unary call on the executor.
#pragma once

#include <functional>

#include <absl/status/status.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "coordinator/grpc_status.h"
#include "coordinator/service_context.h"

namespace tessera {

// `work` fills the response and returns the call's status; request and response live until it has.
inline grpc::ServerUnaryReactor* RunUnary(const ServiceContext& services,
                                          grpc::CallbackServerContext* context,
                                          std::function<absl::Status()> work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status allowed = services.auth.CheckUser(*context);
  if (!allowed.ok()) {
    reactor->Finish(ToGrpcStatus(allowed));
    return reactor;
  }
  const bool queued = services.executor.Run(
      [reactor, work = std::move(work)] { reactor->Finish(ToGrpcStatus(work())); });
  if (!queued) {
    reactor->Finish(ToGrpcStatus(absl::ResourceExhaustedError("too many calls wait for a thread")));
  }
  return reactor;
}

}  // namespace tessera
