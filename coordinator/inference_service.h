// tessera.v1.Inference.
#pragma once

#include <memory>

#include <grpcpp/impl/service_type.h>

#include "coordinator/service_context.h"

namespace tessera {

// `services` (borrowed) outlives the service.
std::unique_ptr<grpc::Service> MakeInferenceService(const ServiceContext& services);

}  // namespace tessera
