#include "kernels/sampling/sample_check.h"

#include <absl/strings/str_cat.h>

#include "kernels/sampling/sample_math.h"

namespace tessera {

absl::Status CheckLogits(const LogitsView& logits, const char* what) {
  const auto [data, rows, row_capacity, vocab, width] = logits;
  if (rows < 0 || vocab < 1 || vocab > kMaxVocab || row_capacity < rows || width < 8 ||
      width % 8 != 0)
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": rows=", rows, " row_capacity=", row_capacity, " vocab=", vocab,
                     " (1 to ", kMaxVocab, ") width=", width, " (a multiple of 8)"));
  return absl::OkStatus();
}

absl::Status CheckCountTokens(const CountTokensArgs& args) {
  if (args.t < 0 || args.s < 0 || args.seen.slots < 0 || args.seen.vocab < 0)
    return absl::InvalidArgumentError(absl::StrCat("count_tokens: t=", args.t, " s=", args.s,
                                                   " slots=", args.seen.slots,
                                                   " vocab=", args.seen.vocab));
  return absl::OkStatus();
}

}  // namespace tessera
