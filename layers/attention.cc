#include "layers/attention.h"

#include <cmath>

#include "common/status_macros.h"

namespace tessera {
namespace {

HeadRotation RotationOf(const Attention& layer, const LayerContext& context,
                        const AttentionShape& shape) {
  return {.inv_freq = shape.inv_freq,
          .scale = shape.rope_scale,
          .q_norm = layer.q_norm.data,
          .k_norm = layer.k_norm.data,
          .norm_eps = context.norm_eps};
}

// Of the rows behind those of decode sequences, which paged_attention rotates itself.
RopeKvWriteArgs RopeArgs(const Attention& layer, const LayerContext& context,
                         const AttentionShape& shape, const StepInputs& inputs,
                         const AttentionScratch& scratch) {
  const int64_t first = inputs.decode_sequences, size = SizeOf(context.dtype);
  return {.qkv = static_cast<char*>(scratch.qkv) + first * (shape.h + 2 * shape.g) * shape.e * size,
          .positions = inputs.positions + first,
          .kv_index = inputs.kv_index + first,
          .rotation = RotationOf(layer, context, shape),
          .q_out = static_cast<char*>(scratch.q) + first * shape.h * shape.e * size,
          .k_cache = layer.k_cache,
          .v_cache = layer.v_cache,
          .t = inputs.t - first,
          .h = shape.h,
          .g = shape.g,
          .e = shape.e,
          .block_size = shape.block_size,
          .cache_tokens = shape.blocks * shape.block_size,
          .dtype = context.dtype};
}

PagedAttentionArgs AttentionArgs(const Attention& layer, const LayerContext& context,
                                 const AttentionShape& shape, const StepInputs& inputs,
                                 const AttentionScratch& scratch) {
  return {.qkv = scratch.qkv,
          .q = scratch.q,
          .k_cache = layer.k_cache,
          .v_cache = layer.v_cache,
          .block_table = inputs.block_table,
          .seq_slot = inputs.seq_slot,
          .q_start = inputs.q_start,
          .context = inputs.context,
          .positions = inputs.positions,
          .kv_index = inputs.kv_index,
          .rotation = RotationOf(layer, context, shape),
          .reads = layer.first ? CacheReads::kInOrder : CacheReads::kEarly,
          .out = scratch.out,
          .out_order = layer.o.w.places,
          .t = inputs.t,
          .s = inputs.s,
          .h = shape.h,
          .g = shape.g,
          .e = shape.e,
          .decode_sequences = inputs.decode_sequences,
          .block_size = shape.block_size,
          .max_blocks = inputs.max_blocks,
          .blocks = shape.blocks,
          .max_query = inputs.max_query,
          .max_context = inputs.max_context,
          .scale = 1.f / std::sqrt(static_cast<float>(shape.e)),
          .dtype = context.dtype,
          .workspace = context.workspace,
          .workspace_bytes = context.workspace_bytes};
}

}  // namespace

absl::Status Attention::Forward(const LayerContext& context, const AttentionShape& shape,
                                const StepInputs& inputs, const AttentionScratch& scratch,
                                const Residual& residual, const InputNorm& norm,
                                const InputNorm& next_norm) const {
  RETURN_IF_ERROR(qkv.Forward(context, residual, norm, scratch.qkv));
  if (inputs.s > inputs.decode_sequences) {
    RETURN_IF_ERROR(
        context.Run(&Ops::rope_kv_write, RopeArgs(*this, context, shape, inputs, scratch)));
  }
  RETURN_IF_ERROR(
      context.Run(&Ops::paged_attention, AttentionArgs(*this, context, shape, inputs, scratch)));
  return o.Add(context, scratch.out, residual, next_norm);
}

}  // namespace tessera
