// The flags that say how a model is to be run, shared by `plan` and `load`.
#pragma once

#include <string>
#include <vector>

#include "client/flags.h"
#include "planner/memory_layout.h"
#include "proto/inference.pb.h"

namespace tessera {

// --context, --max-sequences, --max-step-tokens, --block-size, --device-memory, --dtype, --quant,
// --tp, --pp.
std::vector<FlagSpec> ModelFlags();

// What they say; 0 where not given.
EngineLimits LimitsOf(const Flags& flags);
void ApplyModelFlags(const Flags& flags, v1::ModelOptions& options);

}  // namespace tessera
