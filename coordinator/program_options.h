// The command line of tessera-coordinator as one checked struct.
#pragma once

#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>

#include "coordinator/coordinator.h"

namespace tessera {

// Flags as they were given.
struct ProgramFlags {
  std::string listen;
  std::string tls_cert, tls_key;  // files
  std::string bearer_token_file;
  std::string launch_secret_file;  // this or launch_secret, which main takes from the environment
  std::string launch_secret;
  std::vector<std::string> models;  // NAME=DIR
  std::vector<std::string> allow_model_dirs;
  std::string models_config_dir;
  QueueLimits queue;
};

// Reads the files and checks everything. A server on loopback takes any model directory unless
// allow_model_dirs says otherwise; one that others can reach takes none.
// kInvalidArgument: names the flag and the value. Else ReadFile's errors, with the flag named.
absl::StatusOr<CoordinatorOptions> MakeCoordinatorOptions(const ProgramFlags& flags);

}  // namespace tessera
