#include "common/status_macros.h"
#include "kernels/sampling/count_tokens_math.h"
#include "kernels/sampling/sample.h"
#include "kernels/sampling/sample_check.h"

namespace tessera {

absl::Status CountTokensCpu(const CountTokensArgs& args, const Stream&) {
  RETURN_IF_ERROR(CheckCountTokens(args));
  if (args.seen.table == nullptr) return absl::OkStatus();
  for (int64_t i = 0; i < args.t; ++i) {
    const int64_t entry = SeenEntry(args, i);
    if (entry >= 0) args.seen.table[entry] = Counted(args.seen.table[entry], IsPrompt(args, i));
  }
  return absl::OkStatus();
}

}  // namespace tessera
