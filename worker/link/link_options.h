// How a worker reaches its coordinator.
#pragma once

#include <string>

#include <absl/time/time.h>

namespace tessera {

struct LinkOptions {
  std::string address;       // HOST:PORT
  std::string secret;        // of this launch
  std::string tls_root_pem;  // certificates that may sign the coordinator's; empty: no TLS
  // For Connect as a whole, retries included.
  absl::Duration connect_timeout = absl::Seconds(30);
  absl::Duration heartbeat_period = absl::Seconds(1);
};

}  // namespace tessera
