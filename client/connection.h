// The coordinator as commands reach it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>
#include <grpcpp/grpcpp.h>

#include "client/command.h"
#include "client/flags.h"
#include "proto/inference.grpc.pb.h"

namespace tessera {

// The flags that commands with a cluster share, --timeout with its default in seconds.
std::vector<FlagSpec> ConnectionFlags(absl::string_view default_timeout_s);

class Connection {
 public:
  // Opens a channel as the flags say; nothing is sent yet. kInvalidArgument: no address is known,
  // --tls-ca holds no certificate, or --token-file no token. Also the errors of reading the two.
  static absl::StatusOr<Connection> Open(const Flags& flags, const Environment& environment);

  v1::Inference::Stub& inference() const { return *inference_; }
  v1::Cluster::Stub& cluster() const { return *cluster_; }

  // Context of one call, with the token, and the deadline --timeout or `fallback` from now.
  std::unique_ptr<grpc::ClientContext> NewContext(absl::Duration fallback) const;

 private:
  Connection() = default;
  std::string token_;
  absl::Duration timeout_ = absl::ZeroDuration();  // zero: not given
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Cluster::Stub> cluster_;
};

// The same code and text; a retry hint in the trailing metadata of `context` is added to the text.
absl::Status ToAbsl(const grpc::Status& status, const grpc::ClientContext& context);

}  // namespace tessera
