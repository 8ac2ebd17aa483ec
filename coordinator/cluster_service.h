// tessera.v1.Cluster.
#pragma once

#include <memory>

#include <grpcpp/impl/service_type.h>

#include "coordinator/drain_gate.h"
#include "coordinator/service_context.h"

namespace tessera {

// Both (borrowed) outlive the service.
std::unique_ptr<grpc::Service> MakeClusterService(const ServiceContext& services, DrainGate& drain);

}  // namespace tessera
