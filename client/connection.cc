#include "client/connection.h"

#include <algorithm>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "model/file.h"

namespace tessera {
namespace {

constexpr int64_t kMaxCredentialBytes = 1 << 20;
// Token ids of a long text, and the candidates of a long answer, outgrow gRPC's 4 MiB.
constexpr int kMaxReceiveBytes = 256 << 20;

}  // namespace

std::vector<FlagSpec> ConnectionFlags(absl::string_view default_timeout_s) {
  return {
      {.name = "coordinator",
       .value = "HOST:PORT",
       .help = "The coordinator's address",
       .fallback = "$TESSERA_COORDINATOR"},
      {.name = "tls-ca",
       .value = "FILE",
       .help = "Use TLS and trust the certificates (PEM) in FILE",
       .fallback = "$TESSERA_TLS_CA, else no TLS"},
      {.name = "token-file",
       .value = "FILE",
       .help = "Send FILE's text as bearer token",
       .fallback = "$TESSERA_TOKEN_FILE, else none"},
      {.name = "timeout",
       .kind = FlagKind::kInt,
       .value = "SECONDS",
       .help = "Deadline of each call",
       .fallback = default_timeout_s,
       .min = 1,
       .max = 30 * 24 * 3600},
  };
}

absl::StatusOr<Connection> Connection::Open(const Flags& flags, const Environment& environment) {
  Connection c;
  const std::string address = flags.String("coordinator").value_or(environment.coordinator);
  if (address.empty()) {
    return absl::InvalidArgumentError(
        "no coordinator address: give --coordinator HOST:PORT or set TESSERA_COORDINATOR");
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  const std::string ca_file = flags.String("tls-ca").value_or(environment.tls_ca);
  if (!ca_file.empty()) {
    grpc::SslCredentialsOptions options;
    ASSIGN_OR_RETURN(options.pem_root_certs, ReadFile(ca_file, kMaxCredentialBytes));
    if (!absl::StrContains(options.pem_root_certs, "-----BEGIN CERTIFICATE-----"))
      return absl::InvalidArgumentError(absl::StrCat(ca_file, ": holds no PEM certificate"));
    credentials = grpc::SslCredentials(options);
  }
  const std::string token_file = flags.String("token-file").value_or(environment.token_file);
  if (!token_file.empty()) {
    ASSIGN_OR_RETURN(const std::string text, ReadFile(token_file, kMaxCredentialBytes));
    c.token_ = std::string(absl::StripAsciiWhitespace(text));
    const auto printable = [](char ch) {
      return absl::ascii_isgraph(static_cast<unsigned char>(ch));
    };
    if (c.token_.empty() || !std::all_of(c.token_.begin(), c.token_.end(), printable))
      return absl::InvalidArgumentError(absl::StrCat(token_file, ": want one printable word"));
  }
  if (const auto seconds = flags.Int("timeout")) c.timeout_ = absl::Seconds(*seconds);
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  const auto channel = grpc::CreateCustomChannel(address, credentials, args);
  c.inference_ = v1::Inference::NewStub(channel);
  c.cluster_ = v1::Cluster::NewStub(channel);
  return c;
}

std::unique_ptr<grpc::ClientContext> Connection::NewContext(absl::Duration fallback) const {
  auto context = std::make_unique<grpc::ClientContext>();
  const absl::Duration timeout = timeout_ > absl::ZeroDuration() ? timeout_ : fallback;
  context->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  if (!token_.empty()) context->AddMetadata("authorization", absl::StrCat("Bearer ", token_));
  return context;
}

absl::Status ToAbsl(const grpc::Status& status, const grpc::ClientContext& context) {
  if (status.ok()) return absl::OkStatus();
  std::string text = status.error_message();
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto hint = trailers.find("retry-after-ms");
  if (hint != trailers.end()) {
    absl::StrAppend(&text, " (retry after ",
                    absl::string_view(hint->second.data(), hint->second.size()), " ms)");
  }
  return {static_cast<absl::StatusCode>(status.error_code()), text};
}

}  // namespace tessera
