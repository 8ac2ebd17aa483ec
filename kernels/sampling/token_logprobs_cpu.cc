#include <vector>

#include "common/status_macros.h"
#include "kernels/runtime/cpu_pool.h"
#include "kernels/sampling/log_softmax_cpu.h"
#include "kernels/sampling/logits_row_cpu.h"
#include "kernels/sampling/sample.h"
#include "kernels/sampling/sample_check.h"

namespace tessera {

absl::Status TokenLogprobsCpu(const TokenLogprobsArgs& args, const Stream& stream) {
  RETURN_IF_ERROR(CheckLogits(args.logits, "token_logprobs"));
  stream.pool->ParallelFor(args.logits.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t target = args.targets[i];
      args.out[i] = 0.f;
      if (target < 0 || target >= args.logits.vocab) continue;
      const std::vector<float> logits = CleanRow(args.logits, i);
      args.out[i] = LogSoftmaxOf(logits).Of(logits[static_cast<size_t>(target)]);
    }
  });
  return absl::OkStatus();
}

}  // namespace tessera
