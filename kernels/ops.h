// The ops of one back end as a table, so that layers do not know which device they run on.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "kernels/attention/paged_attention.h"
#include "kernels/comm/residual_add.h"
#include "kernels/embedding/embed.h"
#include "kernels/fill/random_fill.h"
#include "kernels/gemm/copy_columns.h"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/repack.h"
#include "kernels/gemm/silu_mul.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/rope/rope_kv_write.h"
#include "kernels/runtime/stream.h"
#include "kernels/sampling/sample.h"
#include "kernels/step/prepare_step.h"

namespace tessera {

struct Ops {
  template <typename Args>
  using Op = absl::Status (*)(const Args&, const Stream&);

  Op<PrepareStepArgs> prepare_step;
  Op<EmbedArgs> embed;
  Op<RmsNormArgs> rms_norm;
  Op<LinearArgs> linear;
  Op<LinearSequenceArgs> linear_sequence;
  Op<RopeKvWriteArgs> rope_kv_write;
  Op<PagedAttentionArgs> paged_attention;
  Op<CountTokensArgs> count_tokens;
  Op<SampleArgs> sample;
  Op<TokenLogprobsArgs> token_logprobs;
  Op<RandomFillArgs> random_fill;
  Op<ResidualAddArgs> residual_add;
  Op<CopyColumnsArgs> copy_columns;
  Op<SiluMulArgs> silu_mul;
  Op<RepackArgs> repack;
};

// The table of a device; static, never null. kUnimplemented: kCuda in a build without it.
absl::StatusOr<const Ops*> OpsFor(Device device);

}  // namespace tessera
