// Who may call: users by a bearer token, workers by the launch's secret.
#pragma once

#include <string>

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

namespace grpc {
class ServerContextBase;
}

namespace tessera {

// Takes as long for every `given` of one length, whatever its bytes.
bool EqualInConstantTime(absl::string_view given, absl::string_view expected);

struct AuthOptions {
  std::string bearer_token;   // empty: users need none
  std::string launch_secret;  // never empty
};

class Auth {
 public:
  explicit Auth(AuthOptions options) : options_(std::move(options)) {}

  // kUnauthenticated: a token is configured and the metadata `authorization` is not
  // "Bearer TOKEN".
  absl::Status CheckUser(const grpc::ServerContextBase& context) const;
  // kPermissionDenied: the metadata `tessera-launch-secret` is not the secret.
  absl::Status CheckWorker(const grpc::ServerContextBase& context) const;

 private:
  const AuthOptions options_;
};

}  // namespace tessera
