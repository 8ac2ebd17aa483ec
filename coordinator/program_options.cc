#include "coordinator/program_options.h"

#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "coordinator/request_check.h"
#include "model/file.h"

namespace tessera {
namespace {

constexpr int64_t kMaxFileBytes = 1 << 20;
constexpr size_t kMinSecretBytes = 16;

// The file's text; "" for an unset flag.
absl::StatusOr<std::string> ReadFlagFile(absl::string_view flag, const std::string& path) {
  if (path.empty()) return std::string();
  auto text = ReadFile(path, kMaxFileBytes);
  if (text.ok()) return text;
  return absl::Status(text.status().code(), absl::StrCat(flag, ": ", text.status().message()));
}

absl::StatusOr<std::string> ReadToken(absl::string_view flag, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFlagFile(flag, path));
  std::string token(absl::StripAsciiWhitespace(text));
  if (!path.empty() && token.size() < kMinSecretBytes) {
    return absl::InvalidArgumentError(absl::StrCat(flag, ": ", path, " holds ", token.size(),
                                                   " bytes; at least ", kMinSecretBytes));
  }
  return token;
}

absl::Status AddModel(const std::string& entry, ModelSources& sources) {
  const size_t equals = entry.find('=');
  if (equals == std::string::npos || equals + 1 == entry.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--model-dirs: \"", entry, "\" is not NAME=DIR"));
  }
  const std::string name = entry.substr(0, equals);
  RETURN_IF_ERROR(CheckName(name, "--model-dirs: name"));
  if (!sources.dirs.try_emplace(name, entry.substr(equals + 1)).second) {
    return absl::InvalidArgumentError(absl::StrCat("--model-dirs: ", name, " is given twice"));
  }
  return absl::OkStatus();
}

absl::Status CheckPositive(absl::string_view flag, int64_t value) {
  if (value >= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, ": ", value, " is below 1"));
}

}  // namespace

absl::StatusOr<CoordinatorOptions> MakeCoordinatorOptions(const ProgramFlags& flags) {
  CoordinatorOptions out;
  out.server.listen = flags.listen;
  ASSIGN_OR_RETURN(out.server.tls_cert_pem, ReadFlagFile("--tls-cert", flags.tls_cert));
  ASSIGN_OR_RETURN(out.server.tls_key_pem, ReadFlagFile("--tls-key", flags.tls_key));
  ASSIGN_OR_RETURN(out.auth.bearer_token,
                   ReadToken("--bearer-token-file", flags.bearer_token_file));
  ASSIGN_OR_RETURN(out.auth.launch_secret,
                   ReadToken("--launch-secret-file", flags.launch_secret_file));
  if (out.auth.launch_secret.empty()) out.auth.launch_secret = flags.launch_secret;
  if (out.auth.launch_secret.size() < kMinSecretBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("launch secret: ", out.auth.launch_secret.size(), " bytes, at least ",
                     kMinSecretBytes, "; give --launch-secret-file or --launch-secret-env"));
  }
  for (const std::string& entry : flags.models) {
    RETURN_IF_ERROR(AddModel(entry, out.cluster.sources));
  }
  out.cluster.sources.allowed_prefixes = flags.allow_model_dirs;
  const bool loopback = IsLoopback(flags.listen);
  if (flags.allow_model_dirs.empty() && loopback) out.cluster.sources.allowed_prefixes = {"/"};
  out.cluster.sources.configs_dir = flags.models_config_dir;
  RETURN_IF_ERROR(CheckPositive("--max-queued-requests", flags.queue.requests));
  RETURN_IF_ERROR(CheckPositive("--max-queued-tokens", flags.queue.tokens));
  RETURN_IF_ERROR(CheckPositive("--max-queued-bytes", flags.queue.bytes));
  out.cluster.queue = flags.queue;
  if (!loopback && (out.server.tls_cert_pem.empty() || out.auth.bearer_token.empty())) {
    LogWarning("listening on ", flags.listen, " without ",
               out.server.tls_cert_pem.empty() ? "TLS" : "a bearer token",
               ": anyone who reaches the port can read or use it");
  }
  return out;
}

}  // namespace tessera
