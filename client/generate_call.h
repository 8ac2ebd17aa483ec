// One Generate call, with its text shown as it comes.
#pragma once

#include <functional>
#include <memory>

#include <absl/status/status.h>
#include <grpcpp/grpcpp.h>

#include "client/connection.h"
#include "client/generate_result.h"

namespace tessera {

// Runs the call to its end, adding each event to `result` and then giving it to `on_event`. Ctrl-C
// cancels it. Returns the call's status, or kInternal for a stream that breaks the protocol; after
// Ctrl-C kCancelled.
absl::Status RunGenerate(const Connection& connection, std::unique_ptr<grpc::ClientContext> context,
                         const v1::GenerateRequest& request, GenerateResult& result,
                         const std::function<void(const v1::GenerateEvent&)>& on_event);

// Whether model `name` turns ids into text; true when the coordinator does not know the model, so
// that Generate can say so.
absl::StatusOr<bool> HasTokenizer(const Connection& connection, const std::string& name);

}  // namespace tessera
