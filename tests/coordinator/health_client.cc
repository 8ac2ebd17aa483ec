#include "tests/coordinator/health_client.h"

#include <chrono>
#include <string>
#include <vector>

#include <grpcpp/client_context.h>
#include <grpcpp/impl/codegen/client_unary_call.h>
#include <grpcpp/impl/codegen/rpc_method.h>
#include <grpcpp/support/byte_buffer.h>

namespace tessera::testing {

bool CheckHealth(grpc::ChannelInterface& channel, const std::string& service) {
  std::string request;  // HealthCheckRequest { string service = 1; }
  if (!service.empty()) request = std::string("\x0a") + static_cast<char>(service.size()) + service;
  const grpc::Slice slice(request);
  const grpc::ByteBuffer out(&slice, 1);
  grpc::ByteBuffer in;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  const grpc::internal::RpcMethod method("/grpc.health.v1.Health/Check",
                                         grpc::internal::RpcMethod::NORMAL_RPC);
  const grpc::Status status = grpc::internal::BlockingUnaryCall<grpc::ByteBuffer, grpc::ByteBuffer>(
      &channel, method, &context, out, &in);
  std::vector<grpc::Slice> slices;
  if (!status.ok() || !in.Dump(&slices).ok()) return false;
  std::string response;  // HealthCheckResponse { ServingStatus status = 1; }, SERVING = 1
  for (const grpc::Slice& part : slices) {
    response.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return response == std::string("\x08\x01");
}

}  // namespace tessera::testing
