#include "layers/linear.h"

#include "common/status_macros.h"

namespace tessera {
namespace {

LinearArgs BaseArgs(const LayerContext& context, const Weight& w) {
  return {.k = w.cols,
          .dtype = context.dtype,
          .weight_dtype = w.dtype,
          .y_dtype = context.dtype,
          .workspace = context.workspace,
          .workspace_bytes = context.workspace_bytes};
}

}  // namespace

absl::Status ColumnParallelLinear::Forward(const LayerContext& context, const Residual& residual,
                                           const Weight& norm, void* y) const {
  LinearArgs args = BaseArgs(context, w);
  args.t = residual.t;
  args.n = gated ? w.rows / 2 : w.rows;
  args.w = w.data;
  args.bias = bias.data;
  args.gated = gated;
  args.y = y;
  if (context.sharded()) {
    args.x = residual.normed;
  } else {
    args.x = residual.hidden;
    args.norm_weight = norm.data;
    args.norm_eps = context.norm_eps;
  }
  return context.ops->linear(args, context.stream);
}

absl::Status RowParallelLinear::Add(const LayerContext& context, const void* x,
                                    const Residual& residual, const Weight& next_norm) const {
  LinearArgs args = BaseArgs(context, w);
  args.t = residual.t;
  args.n = w.rows;
  args.w = w.data;
  args.x = x;
  if (!context.sharded()) {
    args.residual = residual.hidden;
    args.y = residual.hidden;
    return context.ops->linear(args, context.stream);
  }
  args.y = residual.partial;
  RETURN_IF_ERROR(context.ops->linear(args, context.stream));
  const AllReduceNormArgs reduce = {.partial = residual.partial,
                                    .residual = residual.hidden,
                                    .weight = next_norm.data,
                                    .y = residual.normed,
                                    .t = residual.t,
                                    .d = residual.d,
                                    .eps = context.norm_eps,
                                    .dtype = context.dtype};
  return context.tp->AllReduceNorm(reduce, context.stream);
}

}  // namespace tessera
