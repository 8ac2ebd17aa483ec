// The gRPC server: port, credentials, limits, health and reflection.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>

namespace grpc {
class Server;
class Service;
}  // namespace grpc

namespace tessera {

struct ServerOptions {
  std::string listen = "127.0.0.1:0";  // HOST:PORT; port 0: any free one
  std::string tls_cert_pem;            // both or neither
  std::string tls_key_pem;
};

class Server {
 public:
  // Listens and serves `services` (borrowed; they outlive the server), grpc.health.v1 and
  // reflection. Errors: those of CheckListenAddress; kInvalidArgument: a certificate without its
  // key, or the two are no PEM or do not fit.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       const std::vector<grpc::Service*>& services);
  ~Server();

  const std::string& address() const { return address_; }  // HOST:PORT as it is

  // What grpc.health.v1 says of `service`; empty: of the server as a whole.
  void SetServing(absl::string_view service, bool serving);

  // Takes no more calls; those under way have until `grace` to end, then they are cancelled.
  void Shutdown(absl::Duration grace);

 private:
  Server(std::unique_ptr<grpc::Server> server, std::string address);

  const std::unique_ptr<grpc::Server> server_;
  const std::string address_;
};

// Whether HOST:PORT can only be reached from this machine.
bool IsLoopback(absl::string_view listen);

}  // namespace tessera
