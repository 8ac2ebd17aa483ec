#include "coordinator/listen_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

// A socket that listens on a free port of 127.0.0.1.
class Listener {
 public:
  Listener() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* raw = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(fd_, raw, size), 0);
    EXPECT_EQ(listen(fd_, 1), 0);
    EXPECT_EQ(getsockname(fd_, raw, &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~Listener() { close(fd_); }
  int port() const { return port_; }

 private:
  int fd_, port_ = 0;
};

TEST(CheckListenAddress, FreePortIsFine) { EXPECT_OK(CheckListenAddress("127.0.0.1:0")); }

TEST(CheckListenAddress, PortIsFreeAfterTheCheck) {
  int port = 0;
  {
    const Listener listener;
    port = listener.port();
  }
  const std::string listen = absl::StrCat("127.0.0.1:", port);
  EXPECT_OK(CheckListenAddress(listen));
  EXPECT_OK(CheckListenAddress(listen));
}

TEST(CheckListenAddress, TakenPortIsNamed) {
  const Listener listener;
  for (const char* host : {"127.0.0.1", "localhost", "0.0.0.0"}) {
    const std::string listen = absl::StrCat(host, ":", listener.port());
    EXPECT_THAT(CheckListenAddress(listen),
                StatusIs(absl::StatusCode::kUnavailable,
                         absl::StrCat("listen address ", listen, ": already in use")));
  }
}

// 192.0.2.0/24 is for documentation (RFC 5737): no machine has such an address.
TEST(CheckListenAddress, AddressOfAnotherMachineIsNamed) {
  EXPECT_THAT(CheckListenAddress("192.0.2.1:0"),
              StatusIs(absl::StatusCode::kUnavailable,
                       "listen address 192.0.2.1:0: not an address of this machine"));
}

// RFC 6761: names below "invalid" never resolve.
TEST(CheckListenAddress, UnknownHostIsNamed) {
  EXPECT_THAT(CheckListenAddress("nowhere.invalid:0"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("listen address nowhere.invalid:0: host \"nowhere.invalid\": ")));
}

TEST(CheckListenAddress, Ipv6NeedsBrackets) {
  EXPECT_THAT(CheckListenAddress("::1:80"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("brackets")));
}

// Root may bind any port, so the errno is given by hand.
TEST(ListenError, PrivilegedPortSaysSo) {
  EXPECT_THAT(ListenError("127.0.0.1:80", EACCES),
              StatusIs(absl::StatusCode::kPermissionDenied,
                       HasSubstr("listen address 127.0.0.1:80: permission denied; ports below")));
}

}  // namespace
}  // namespace tessera
