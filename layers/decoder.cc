#include "layers/decoder.h"

#include <initializer_list>
#include <string>

#include <absl/strings/str_cat.h>

#include "common/align.h"
#include "common/status_macros.h"

namespace tessera {
namespace {

constexpr int64_t kScratchAlignment = 256;

void* Offset(void* base, int64_t bytes) { return static_cast<char*>(base) + bytes; }

// The merged weight `prefix` + `merged`, or those of `names` where there is none.
absl::Status GetParts(const WeightMap& weights, const std::string& prefix, const char* merged,
                      std::initializer_list<const char*> names, std::vector<Weight>& parts) {
  const Weight whole = weights.GetOptional(prefix + merged);
  if (whole.rows > 0 || !weights.Get(prefix + *names.begin()).ok()) {
    ASSIGN_OR_RETURN(Weight found, weights.Get(prefix + merged));
    parts.push_back(found);
    return absl::OkStatus();
  }
  for (const char* name : names) {
    ASSIGN_OR_RETURN(Weight part, weights.Get(prefix + name));
    parts.push_back(part);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Decoder> Decoder::Create(const DecoderSpec& spec, const WeightMap& weights) {
  Decoder decoder(spec);
  decoder.attention_ = {.h = spec.shard.heads.size(),
                        .g = spec.shard.kv_heads.size(),
                        .e = spec.config.head_size,
                        .block_size = spec.block_size,
                        .blocks = spec.blocks,
                        .inv_freq = spec.buffers.inv_freq,
                        .rope_scale = spec.rope_scale};
  if (spec.shard.first()) {
    ASSIGN_OR_RETURN(decoder.embed_, weights.Get("embed"));
  }
  for (int64_t i = spec.shard.layers.begin; i < spec.shard.layers.end; ++i)
    RETURN_IF_ERROR(decoder.AddLayer(i, weights));
  if (spec.shard.last()) {
    ASSIGN_OR_RETURN(decoder.final_norm_, weights.Get("final_norm"));
    decoder.head_ = weights.GetOptional("head");
    if (decoder.head_.empty()) {  // tied, and this rank holds the embedding
      ASSIGN_OR_RETURN(decoder.head_, weights.Get("embed"));
    }
  }
  return decoder;
}

absl::Status Decoder::AddLayer(int64_t index, const WeightMap& weights) {
  const auto name = [&](const char* part) { return absl::StrCat("layers.", index, ".", part); };
  Layer layer;
  ASSIGN_OR_RETURN(layer.attention_norm.weight, weights.Get(name("attn_norm")));
  ASSIGN_OR_RETURN(layer.mlp_norm.weight, weights.Get(name("mlp_norm")));
  RETURN_IF_ERROR(GetParts(weights, name(""), "qkv", {"q", "k", "v"}, layer.attention.qkv.parts));
  layer.attention.qkv.bias = weights.GetOptional(name("qkv_bias"));
  layer.attention.q_norm = weights.GetOptional(name("q_norm"));
  layer.attention.k_norm = weights.GetOptional(name("k_norm"));
  ASSIGN_OR_RETURN(layer.attention.o.w, weights.Get(name("o")));
  RETURN_IF_ERROR(GetParts(weights, name(""), "gate_up", {"gate", "up"}, layer.mlp.gate_up.parts));
  layer.mlp.gate_up.gated = true;
  ASSIGN_OR_RETURN(layer.mlp.down.w, weights.Get(name("down")));
  layer.attention_norm.copies = layer.attention.qkv.InputCopies();
  layer.mlp_norm.copies = layer.mlp.gate_up.InputCopies();

  const AttentionShape& a = attention_;
  const int64_t cache_bytes =
      a.blocks * a.g * a.block_size * a.e * SizeOf(spec_.context.dtype);  // of k, and of v
  const int64_t local = index - spec_.shard.layers.begin;
  layer.attention.k_cache = Offset(spec_.buffers.kv, 2 * local * cache_bytes);
  layer.attention.v_cache = Offset(spec_.buffers.kv, (2 * local + 1) * cache_bytes);
  layer.attention.first = local == 0;
  layers_.push_back(layer);
  return absl::OkStatus();
}

// Fills the residual stream, and its norm for the first layer when sharded.
absl::Status Decoder::Enter(const StepInputs& inputs, const Residual& residual) const {
  const LayerContext& context = spec_.context;
  if (spec_.shard.first()) {
    const EmbedArgs embed = {.tokens = inputs.token_ids,
                             .table = embed_.data,
                             .y = residual.hidden,
                             .t = inputs.t,
                             .d = residual.d,
                             .first_row = spec_.shard.vocab.begin,
                             .rows = spec_.shard.vocab.size(),
                             .dtype = context.dtype,
                             .table_dtype = embed_.dtype};
    RETURN_IF_ERROR(context.Run(&Ops::embed, embed));
    if (context.sharded()) {
      RETURN_IF_ERROR(context.tp->AllReduceSum(residual.hidden, inputs.t * residual.d,
                                               context.dtype, context.stream));
    }
  }
  if (!context.sharded()) return absl::OkStatus();
  const RmsNormArgs norm = {.x = residual.hidden,
                            .weight = layers_.front().attention_norm.weight.data,
                            .y = residual.normed,
                            .copies = layers_.front().attention_norm.copies,
                            .t = inputs.t,
                            .d = residual.d,
                            .eps = context.norm_eps,
                            .dtype = context.dtype};
  return context.Run(&Ops::rms_norm, norm);
}

Residual Decoder::ResidualOf(int64_t t) const {
  return {.hidden = spec_.buffers.hidden,
          .normed = spec_.buffers.normed,
          .partial = spec_.buffers.partial,
          .split = spec_.buffers.split,
          .t = t,
          .d = spec_.config.hidden};
}

absl::Status Decoder::Forward(const StepInputs& inputs) const {
  queue_->products.clear();  // of a step that failed
  const Residual residual = ResidualOf(inputs.t);
  RETURN_IF_ERROR(Enter(inputs, residual));
  const LayerScratch rows = ScratchOf(inputs.t);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const InputNorm next = i + 1 < layers_.size() ? layers_[i + 1].attention_norm : InputNorm{};
    RETURN_IF_ERROR(layer.attention.Forward(spec_.context, attention_, inputs, rows.attention,
                                            residual, layer.attention_norm, layer.mlp_norm));
    RETURN_IF_ERROR(
        layer.mlp.Forward(spec_.context, residual, layer.mlp_norm, next, rows.activated));
  }
  return spec_.context.EnqueueWaiting();
}

absl::StatusOr<LogitsView> Decoder::Logits(const int32_t* rows, int64_t count) const {
  const LayerContext& context = spec_.context;
  const RmsNormArgs norm = {.x = spec_.buffers.hidden,
                            .weight = final_norm_.data,
                            .y = spec_.buffers.last_hidden,
                            .copies = {.copies = {head_.places}, .count = head_.ordered() ? 1 : 0},
                            .rows = rows,
                            .t = count,
                            .d = spec_.config.hidden,
                            .eps = context.norm_eps,
                            .dtype = context.dtype};
  RETURN_IF_ERROR(context.Run(&Ops::rms_norm, norm));
  // A shard's logits go where the all-gather will have them: block tp_rank of [tp, count, width].
  const int64_t width = spec_.shard.vocab_width, block = count * width;
  float* mine = spec_.buffers.logits + spec_.shard.tp_rank * block;
  const LinearArgs head = {
      .x = spec_.buffers.last_hidden, .y = mine, .t = count, .n = width, .y_dtype = DType::kF32};
  RETURN_IF_ERROR(Multiply(context, head_, head));
  RETURN_IF_ERROR(context.EnqueueWaiting());
  if (context.sharded()) {
    RETURN_IF_ERROR(context.tp->AllGather(mine, spec_.buffers.logits, block * SizeOf(DType::kF32),
                                          context.stream));
  }
  return LogitsOf(count);
}

LogitsView Decoder::LogitsOf(int64_t count) const {
  return {.data = spec_.buffers.logits,
          .rows = count,
          .row_capacity = count,
          .vocab = spec_.config.vocab,
          .width = spec_.shard.vocab_width};
}

int64_t Decoder::hidden_bytes(int64_t t) const {
  return t * spec_.config.hidden * SizeOf(spec_.context.dtype);
}

Decoder::LayerScratch Decoder::ScratchOf(int64_t t) const {
  const int64_t element = SizeOf(spec_.context.dtype);
  const int64_t q = attention_.h * attention_.e, kv = attention_.g * attention_.e;
  const int64_t qkv_bytes = AlignUp(t * (q + 2 * kv) * element, kScratchAlignment);
  const int64_t q_bytes = AlignUp(t * q * element, kScratchAlignment);
  void* const base = spec_.buffers.scratch;
  return {.attention = {.qkv = base,
                        .q = Offset(base, qkv_bytes),
                        .out = Offset(base, qkv_bytes + q_bytes)},
          .activated = t == 1 ? spec_.buffers.activated_row : base};
}

}  // namespace tessera
