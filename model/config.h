// What config.json says of a model, checked and in one form for every family.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "common/dtype.h"
#include "common/quant_format.h"
#include "model/quant_modules.h"

namespace tessera {

enum class RopeKind : uint8_t { kDefault, kLlama3, kYarn };

// Rotary embedding; docs/formats.md gives the formulas.
struct RopeConfig {
  RopeKind kind = RopeKind::kDefault;
  double theta = 10000.0;
  double factor = 1.0;  // kLlama3, kYarn
  int64_t original_max_positions = 0;
  double low_freq_factor = 1.0;  // kLlama3
  double high_freq_factor = 4.0;
  double beta_fast = 32.0;  // kYarn
  double beta_slow = 1.0;
  double attention_factor = 0.0;  // kYarn; 0: 0.1 ln(factor) + 1
  bool truncate = true;           // kYarn: the ramp's ends are whole dimensions
};

// Routed experts; experts == 0 means a dense model.
struct MoeConfig {
  int64_t experts = 0;
  int64_t experts_per_token = 0;
  int64_t intermediate = 0;         // of one routed expert
  int64_t shared_intermediate = 0;  // 0: no shared expert
  bool normalize_top_k = false;
  int64_t sparse_step = 1;
  std::vector<int64_t> dense_layers;  // mlp_only_layers
};

// Letters of docs/architecture.md in brackets.
struct ModelConfig {
  std::string architecture;  // "Qwen2ForCausalLM": a row of model/families.cc
  int64_t layers = 0;
  int64_t hidden = 0;         // [d]
  int64_t heads = 0;          // [h]
  int64_t kv_heads = 0;       // [g]
  int64_t head_size = 0;      // [e]: 32, 64 or 128
  int64_t intermediate = 0;   // [f] of dense layers
  int64_t vocab = 0;          // [v]
  int64_t max_positions = 0;  // the context; with yarn at least factor * original_max_positions
  double rms_norm_eps = 1e-6;
  bool tied_embeddings = false;
  bool qkv_bias = false;       // q, k and v projections have biases
  bool qk_norm = false;        // per-head RMSNorm of q and k
  DType dtype = DType::kBf16;  // of the checkpoint's dense tensors
  RopeConfig rope;
  MoeConfig moe;
  QuantFormat quant;  // of the linear layers that nothing else is said of; the embedding is dense
  // Which layers are quantized and how; null: all but the head, by `quant`. Counts only while
  // `quant` is the one it was found for (QuantOf()).
  std::shared_ptr<const QuantModules> quant_modules;
  std::vector<int64_t> eos_ids;  // config.json's; generation_config.json comes first
  int64_t bos_id = -1;           // -1: none

  // Whether layer i's feed-forward is routed.
  bool IsSparse(int64_t layer) const;
};

// Reads config.json's text as transformers 4 (`torch_dtype`, `rope_theta`, `rope_scaling`) or 5
// (`dtype`, `rope_parameters`) writes it. `source` names the file in errors.
// kInvalidArgument: not JSON, a field missing, of the wrong type or out of its range (named, with
// the value). kUnimplemented: an unknown architecture, rope type, activation, head size or
// quantization; sliding windows in use.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json, absl::string_view source);

// ParseModelConfig of DIR/config.json. Where that names no dtype, it is the checkpoint's, of which
// only headers are read; bf16 if there is none. Where it names no quantization, a
// quantize_config.json, quant_config.json or quantization_config.json beside it counts, if the
// checkpoint has quantized tensors. Which layers are quantized is read from the headers, and g_idx
// tensors with them. kNotFound: no config.json. For an absent dtype or a quantized model: the other
// errors of Checkpoint::Open, and those of FindModules().
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir);

// inv_freq[head_size / 2], rounded as transformers does, and the factor on cos and sin.
struct RopeTable {
  std::vector<float> inv_freq;
  float scale = 1.f;
};
RopeTable MakeRopeTable(const RopeConfig& rope, int64_t head_size);

}  // namespace tessera
