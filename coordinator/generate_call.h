// One Generate call, from its arrival to its status.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "coordinator/service_context.h"
#include "proto/inference.pb.h"

namespace tessera {

// Starts the call; the reactor deletes itself. `request` is gRPC's and lives as long as the call.
grpc::ServerWriteReactor<v1::GenerateEvent>* StartGenerate(const ServiceContext& services,
                                                           grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request);

}  // namespace tessera
