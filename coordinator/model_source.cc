#include "coordinator/model_source.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include <absl/strings/escaping.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "coordinator/request_check.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 256)), "\"");
}

absl::StatusOr<std::string> RealDir(const std::string& path) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  if (error || !fs::is_directory(real, error)) {
    return absl::NotFoundError(absl::StrCat("model directory ", Quoted(path), ": not there"));
  }
  return real.string();
}

bool IsBelow(const fs::path& path, const fs::path& prefix) {
  const auto [end, unused] = std::mismatch(prefix.begin(), prefix.end(), path.begin(), path.end());
  return end == prefix.end();
}

absl::StatusOr<std::string> AllowedPath(absl::string_view path, const ModelSources& sources) {
  std::error_code error;
  const fs::path real = fs::weakly_canonical(std::string(path), error);
  for (const std::string& prefix : sources.allowed_prefixes) {
    const fs::path real_prefix = fs::canonical(prefix, error);
    if (!error && IsBelow(real, real_prefix)) return RealDir(real.string());
  }
  return absl::PermissionDeniedError(
      absl::StrCat("model directory ", Quoted(path), ": below none of the allowed ones [",
                   absl::StrJoin(sources.allowed_prefixes, ", "), "] (--allow-model-dir)"));
}

}  // namespace

absl::StatusOr<std::string> FindModelDir(absl::string_view model_dir, absl::string_view name,
                                         const ModelSources& sources) {
  const absl::string_view wanted = model_dir.empty() ? name : model_dir;
  if (absl::StrContains(wanted, '/') || absl::StrContains(wanted, '\0')) {
    if (absl::StrContains(wanted, '\0') || !absl::StartsWith(wanted, "/")) {
      return absl::InvalidArgumentError(absl::StrCat("options.model_dir: ", Quoted(wanted),
                                                     " is neither a name nor an absolute path"));
    }
    return AllowedPath(wanted, sources);
  }
  const auto place = sources.dirs.find(std::string(wanted));
  if (place != sources.dirs.end()) return RealDir(place->second);
  // "." and ".." pass CheckName but have no config.json of a model beside them to be found by.
  if (!sources.configs_dir.empty() && wanted != "." && wanted != ".." &&
      CheckName(wanted, "name").ok()) {
    const fs::path dir = fs::path(sources.configs_dir) / std::string(wanted);
    std::error_code error;
    if (fs::is_regular_file(dir / "config.json", error)) return RealDir(dir.string());
  }
  std::vector<std::string> known;
  for (const auto& [key, dir] : sources.dirs) known.push_back(key);
  return absl::NotFoundError(absl::StrCat(
      "model ", Quoted(wanted), ": not among the configured [", absl::StrJoin(known, ", "),
      "] nor in ", sources.configs_dir.empty() ? "a directory of configs" : sources.configs_dir));
}

}  // namespace tessera
