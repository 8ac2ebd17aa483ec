// Log softmax of one row on the host.
#pragma once

#include <cmath>
#include <limits>

#include <absl/types/span.h>

namespace tessera {

struct LogSoftmax {
  float best = 0.f;
  double log_sum = 0.;  // of exp(logit - best)

  // -inf for a logit of -inf, and for every one of a row with none above it.
  float Of(float logit) const {
    if (best == -std::numeric_limits<float>::infinity()) return best;
    const double below = logit == best ? 0. : static_cast<double>(logit) - best;
    return static_cast<float>(below - log_sum);
  }
};

// `logits`: clean (sample_math.h), at least one. Summed in fp64.
inline LogSoftmax LogSoftmaxOf(absl::Span<const float> logits) {
  LogSoftmax result{.best = logits[0]};
  for (const float logit : logits) result.best = logit > result.best ? logit : result.best;
  double sum = 0.;
  for (const float logit : logits)
    sum += logit == result.best ? 1. : std::exp(static_cast<double>(logit) - result.best);
  result.log_sum = std::log(sum);
  return result;
}

}  // namespace tessera
