// One pipeline stage of a decoder-only transformer: embedding (first stage), layers, head (last
// stage).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "layers/attention.h"
#include "layers/context.h"
#include "layers/mlp.h"
#include "layers/weights.h"
#include "model/config.h"
#include "model/shard.h"

namespace tessera {

// Device memory of a stage, owned by the caller.
struct DecoderBuffers {
  void* hidden = nullptr;   // [max t, d]
  void* normed = nullptr;   // [max t, widest copies of d]: see Residual, as for the next two
  void* partial = nullptr;  // [max t, d]
  void* split = nullptr;    // [max t, widest outputs that are not merged]
  void* scratch = nullptr;  // attention's or the feed-forward's rows
  // The feed-forward's row of a step that has one: the next layer's q, k and v may be written in
  // the same launch (kernels/gemm/packed_chain.h).
  void* activated_row = nullptr;
  void* kv = nullptr;           // [layers, 2, blocks, g, block_size, e]
  void* last_hidden = nullptr;  // [max rows, the head's columns], last stage
  float* logits = nullptr;      // [tp, max rows, vocab_width], last stage
  const float* inv_freq = nullptr;
};

struct DecoderSpec {
  ModelConfig config;
  Shard shard;
  LayerContext context;
  DecoderBuffers buffers;
  int64_t block_size = 0, blocks = 0;
  float rope_scale = 1.f;
};

class Decoder {
 public:
  // kNotFound: a weight is missing from `weights`, whose memory must outlive the result.
  static absl::StatusOr<Decoder> Create(const DecoderSpec& spec, const WeightMap& weights);

  // First stage: embeds inputs.token_ids; others: takes the hidden rows received into hidden().
  // Then runs the stage's layers; the result is in hidden().
  absl::Status Forward(const StepInputs& inputs) const;

  // Last stage: logits of `count` rows of hidden(), `rows` [count] on the device (negative: zeros).
  absl::StatusOr<LogitsView> Logits(const int32_t* rows, int64_t count) const;

  // The view Logits() gave for `count` rows, for when a captured graph has filled it.
  LogitsView LogitsOf(int64_t count) const;

  // [t, d] between stages.
  void* hidden() const { return spec_.buffers.hidden; }
  int64_t hidden_bytes(int64_t t) const;

 private:
  struct Layer {
    InputNorm attention_norm, mlp_norm;
    Attention attention;
    Mlp mlp;
  };

  explicit Decoder(const DecoderSpec& spec) : spec_(spec), queue_(std::make_unique<LinearQueue>()) {
    // Beside a stage's steps another's results may come in, by a kernel that waits for them:
    // products that go together would wait with it (kernels/gemm/packed_chain.h).
    if (spec.shard.first() && spec.shard.last()) spec_.context.queue = queue_.get();
  }
  absl::Status AddLayer(int64_t index, const WeightMap& weights);
  Residual ResidualOf(int64_t t) const;
  absl::Status Enter(const StepInputs& inputs, const Residual& residual) const;
  // Where a step of t rows has what lives within a layer.
  struct LayerScratch {
    AttentionScratch attention;
    void* activated;
  };
  LayerScratch ScratchOf(int64_t t) const;

  DecoderSpec spec_;
  std::unique_ptr<LinearQueue> queue_;
  AttentionShape attention_;
  std::vector<Layer> layers_;
  Weight embed_, final_norm_, head_;
};

}  // namespace tessera
