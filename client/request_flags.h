// The flags that describe a generation, and the request they make.
#pragma once

#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "client/flags.h"
#include "proto/inference.pb.h"

namespace tessera {

// --max-tokens, --temperature, --top-p, ... --stop, --stop-ids.
std::vector<FlagSpec> SamplingFlags();

// Sets what SamplingFlags() were given; all else stays as it is, which leaves the server's
// defaults.
void ApplySamplingFlags(const Flags& flags, v1::GenerateRequest& request);

// --model of a command that works on a loaded model.
FlagSpec LoadedModelFlag();

// Appends `more` to `flags`.
void Append(std::vector<FlagSpec>& flags, const std::vector<FlagSpec>& more);

}  // namespace tessera
