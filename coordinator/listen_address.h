// The address a server is to listen on, checked before gRPC takes it: gRPC says only that it could
// not bind, in a dump of several lines.
#pragma once

#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

namespace tessera {

// HOST of HOST:PORT, with the brackets of an IPv6 address.
// kInvalidArgument: not HOST:PORT with a port in [0, 65535], or an IPv6 address without brackets.
absl::StatusOr<std::string> HostOf(absl::string_view listen);

// Binds and listens on every address of HOST for a moment. May wait for name servers.
// kUnavailable: the port is in use, or HOST is no address of this machine. kPermissionDenied: the
// port takes a privilege. kInvalidArgument: as HostOf, or HOST is not known.
absl::Status CheckListenAddress(const std::string& listen);

// What the errno of a refused bind or listen means, in the words of CheckListenAddress.
absl::Status ListenError(absl::string_view listen, int error);

}  // namespace tessera
