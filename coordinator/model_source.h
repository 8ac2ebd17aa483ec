// From what a user calls a model to the directory it lies in. Names are looked up, never used as
// paths; paths are taken only where the operator allows it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

namespace tessera {

struct ModelSources {
  std::map<std::string, std::string, std::less<>> dirs;  // name -> directory
  std::vector<std::string> allowed_prefixes;  // directories below which any path is taken
  std::string configs_dir;                    // has NAME/config.json; empty: none
};

// The real path of the directory that `model_dir` means: a name in the table, a name in
// configs_dir, or an absolute path. Empty: `name` is looked up instead.
// kNotFound: no such name (the known ones are listed) or directory. kInvalidArgument: a relative
// path. kPermissionDenied: a path below none of the allowed prefixes, symbolic links resolved.
absl::StatusOr<std::string> FindModelDir(absl::string_view model_dir, absl::string_view name,
                                         const ModelSources& sources);

}  // namespace tessera
