// One LoadModel call: shows a load's progress. The load goes on when the user leaves.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "coordinator/service_context.h"
#include "proto/inference.pb.h"

namespace tessera {

// Starts the call; the reactor deletes itself.
grpc::ServerWriteReactor<v1::LoadModelEvent>* StartLoad(const ServiceContext& services,
                                                        grpc::CallbackServerContext* context,
                                                        const v1::LoadModelRequest* request);

}  // namespace tessera
