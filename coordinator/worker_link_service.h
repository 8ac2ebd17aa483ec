// tessera.internal.WorkerLink: the streams of the workers.
#pragma once

#include <memory>

#include <grpcpp/impl/service_type.h>

#include "coordinator/service_context.h"

namespace tessera {

// `services` (borrowed) outlives the service.
std::unique_ptr<grpc::Service> MakeWorkerLinkService(const ServiceContext& services);

}  // namespace tessera
