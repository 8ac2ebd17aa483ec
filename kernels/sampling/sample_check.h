// Argument checks of the sampling ops, the same on both devices. Errors as sample.h promises.
#pragma once

#include <absl/status/status.h>

#include "kernels/sampling/sample.h"

namespace tessera {

// `what` names the op in messages.
absl::Status CheckLogits(const LogitsView& logits, const char* what);
absl::Status CheckCountTokens(const CountTokensArgs& args);

}  // namespace tessera
