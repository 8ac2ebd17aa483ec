#include "layers/linear.h"

#include <algorithm>

#include "common/status_macros.h"

namespace tessera {
namespace {

void* Offset(void* base, int64_t bytes) { return static_cast<char*>(base) + bytes; }

// The norm alone, into residual.normed; a sharded stage has it there from the reduction before.
absl::Status Normalize(const LayerContext& context, const Residual& residual,
                       const InputNorm& norm) {
  if (context.sharded()) return absl::OkStatus();
  const RmsNormArgs args = {.x = residual.hidden,
                            .weight = norm.weight.data,
                            .y = residual.normed,
                            .copies = norm.copies,
                            .t = residual.t,
                            .d = residual.d,
                            .eps = context.norm_eps,
                            .dtype = context.dtype};
  return context.Run(&Ops::rms_norm, args);
}

// Outputs of each part in turn, moved to their columns of y[t, width].
absl::Status ForwardParts(const LayerContext& context, const ColumnParallelLinear& linear,
                          const Residual& residual, void* y, int64_t width, void* part_rows) {
  const int64_t element = SizeOf(context.dtype);
  const bool copies = linear.InputCopies().count > 0;
  const void* x = residual.normed;
  int64_t column = 0;
  for (const Weight& w : linear.parts) {
    LinearArgs args = {.x = x, .y = part_rows, .t = residual.t, .n = w.rows};
    args.y_dtype = context.dtype;
    if (!linear.bias.empty())
      args.bias = static_cast<const char*>(linear.bias.data) + column * element;
    RETURN_IF_ERROR(Multiply(context, w, args));
    const CopyColumnsArgs place = {.x = part_rows,
                                   .y = Offset(y, column * element),
                                   .t = residual.t,
                                   .n = w.rows,
                                   .y_stride = width,
                                   .dtype = context.dtype};
    RETURN_IF_ERROR(context.Run(&Ops::copy_columns, place));
    column += w.rows;
    if (copies) x = static_cast<const char*>(x) + residual.t * w.cols * element;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Multiply(const LayerContext& context, const Weight& w, LinearArgs args) {
  args.k = w.cols;
  args.dtype = context.dtype;
  args.weight_dtype = w.dtype;
  args.workspace = context.workspace;
  args.workspace_bytes = context.workspace_bytes;
  args.w = w.data;
  if (w.packed.values != nullptr) {
    args.packed = w.packed;
    args.weight_dtype = context.dtype;
  }
  if (context.queue == nullptr) return context.ops->linear(args, context.stream);
  context.queue->products.push_back(args);
  return absl::OkStatus();
}

ColumnCopies ColumnParallelLinear::InputCopies() const {
  ColumnCopies copies;
  if (std::none_of(parts.begin(), parts.end(), [](const Weight& w) { return w.ordered(); }))
    return copies;
  for (const Weight& w : parts) copies.copies[copies.count++] = w.places;
  return copies;
}

absl::Status ColumnParallelLinear::Forward(const LayerContext& context, const Residual& residual,
                                           const InputNorm& norm, void* y) const {
  if (parts.size() == 1) {
    const Weight& w = parts.front();
    LinearArgs args = {.x = residual.normed,
                       .bias = bias.data,
                       .y = y,
                       .gated = gated,
                       .t = residual.t,
                       .n = gated ? w.rows / 2 : w.rows,
                       .y_dtype = context.dtype};
    if (!context.sharded() && !w.ordered()) {
      args.x = residual.hidden;
      args.norm_weight = norm.weight.data;
      args.norm_eps = context.norm_eps;
    } else {
      RETURN_IF_ERROR(Normalize(context, residual, norm));
    }
    return Multiply(context, w, args);
  }
  RETURN_IF_ERROR(Normalize(context, residual, norm));
  int64_t width = 0;
  for (const Weight& w : parts) width += w.rows;
  if (!gated) return ForwardParts(context, *this, residual, y, width, residual.split);
  const int64_t both_bytes = residual.t * width * SizeOf(context.dtype);
  RETURN_IF_ERROR(ForwardParts(context, *this, residual, residual.split, width,
                               Offset(residual.split, both_bytes)));
  const SiluMulArgs gate = {.both = residual.split,
                            .y = y,
                            .t = residual.t,
                            .n = width / 2,
                            .dtype = context.dtype,
                            .y_dtype = context.dtype};
  return context.Run(&Ops::silu_mul, gate);
}

absl::Status RowParallelLinear::Add(const LayerContext& context, const void* x,
                                    const Residual& residual, const InputNorm& next_norm) const {
  LinearArgs args = {.x = x, .t = residual.t, .n = w.rows, .y_dtype = context.dtype};
  if (!context.sharded()) {
    args.residual = residual.hidden;
    args.y = residual.hidden;
    return Multiply(context, w, args);
  }
  args.y = residual.partial;
  RETURN_IF_ERROR(Multiply(context, w, args));
  const AllReduceNormArgs reduce = {.partial = residual.partial,
                                    .residual = residual.hidden,
                                    .weight = next_norm.weight.data,
                                    .y = residual.normed,
                                    .copies = next_norm.copies,
                                    .t = residual.t,
                                    .d = residual.d,
                                    .eps = context.norm_eps,
                                    .dtype = context.dtype};
  RETURN_IF_ERROR(context.EnqueueWaiting());
  return context.tp->AllReduceNorm(reduce, context.stream);
}

}  // namespace tessera
