#include "coordinator/listen_address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include <absl/cleanup/cleanup.h>
#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>

#include "common/status_macros.h"

namespace tessera {
namespace {

// 0, or the errno of what the address refuses.
int TryListen(const addrinfo& address) {
  const int fd = ::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return errno;
  const absl::Cleanup close_socket = [fd] { ::close(fd); };
  // As gRPC does: connections of an earlier server that still close do not count.
  const int on = 1;
  (void)::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (address.ai_family == AF_INET6) {
    (void)::setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
  }
  if (::bind(fd, address.ai_addr, address.ai_addrlen) != 0) return errno;
  return ::listen(fd, 1) == 0 ? 0 : errno;
}

}  // namespace

absl::StatusOr<std::string> HostOf(absl::string_view listen) {
  const size_t colon = listen.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(listen.substr(colon + 1), &port) || port < 0 || port > 65'535) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address \"", listen, "\": not HOST:PORT with a port in [0, 65535]"));
  }
  const absl::string_view host = listen.substr(0, colon);
  if (absl::StrContains(host, ':') && !(absl::StartsWith(host, "[") && absl::EndsWith(host, "]"))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen address \"", listen, "\": an IPv6 address stands in brackets, as in [::1]:0"));
  }
  return std::string(host);
}

absl::Status CheckListenAddress(const std::string& listen) {
  ASSIGN_OR_RETURN(std::string host, HostOf(listen));
  const std::string port = listen.substr(host.size() + 1);
  if (host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int unknown = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (unknown != 0) {
    return absl::InvalidArgumentError(absl::StrCat("listen address ", listen, ": host \"", host,
                                                   "\": ", ::gai_strerror(unknown)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, ::freeaddrinfo);
  // A name may have an address that this machine lacks (::1 of localhost, without IPv6); but a port
  // that is taken on one of them is somebody else's server.
  int first_error = 0;
  bool any = false;
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    const int error = TryListen(*address);
    any = any || error == 0;
    if (error == EADDRINUSE) return ListenError(listen, error);
    if (first_error == 0) first_error = error;
  }
  return any ? absl::OkStatus() : ListenError(listen, first_error);
}

absl::Status ListenError(absl::string_view listen, int error) {
  const std::string where = absl::StrCat("listen address ", listen, ": ");
  switch (error) {
    case EADDRINUSE:
      return absl::UnavailableError(absl::StrCat(where, "already in use"));
    case EADDRNOTAVAIL:
      return absl::UnavailableError(absl::StrCat(where, "not an address of this machine"));
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(absl::StrCat(
          where, "permission denied; ports below 1024 usually need root, others do not"));
    default:
      return absl::ErrnoToStatus(error, absl::StripSuffix(where, ": "));
  }
}

}  // namespace tessera
