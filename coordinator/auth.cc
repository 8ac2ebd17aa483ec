#include "coordinator/auth.h"

#include <absl/strings/match.h>
#include <grpcpp/server_context.h>

namespace tessera {
namespace {

// The only value of a metadata key; empty when it is absent or there are several.
absl::string_view Metadata(const grpc::ServerContextBase& context, const char* key) {
  const auto& metadata = context.client_metadata();
  const auto [begin, end] = metadata.equal_range(key);
  if (begin == end || std::next(begin) != end) return {};
  return {begin->second.data(), begin->second.size()};
}

}  // namespace

bool EqualInConstantTime(absl::string_view given, absl::string_view expected) {
  unsigned difference = given.size() == expected.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    const char other = expected.empty() ? '\0' : expected[i % expected.size()];
    difference |= static_cast<unsigned char>(given[i] ^ other);
  }
  return difference == 0;
}

absl::Status Auth::CheckUser(const grpc::ServerContextBase& context) const {
  if (options_.bearer_token.empty()) return absl::OkStatus();
  constexpr absl::string_view kPrefix = "Bearer ";
  const absl::string_view value = Metadata(context, "authorization");
  if (absl::StartsWith(value, kPrefix) &&
      EqualInConstantTime(value.substr(kPrefix.size()), options_.bearer_token)) {
    return absl::OkStatus();
  }
  return absl::UnauthenticatedError(
      "metadata \"authorization\": not \"Bearer TOKEN\" with this coordinator's token");
}

absl::Status Auth::CheckWorker(const grpc::ServerContextBase& context) const {
  const absl::string_view given = Metadata(context, "tessera-launch-secret");
  if (!options_.launch_secret.empty() && EqualInConstantTime(given, options_.launch_secret)) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(
      "metadata \"tessera-launch-secret\": not this coordinator's secret");
}

}  // namespace tessera
