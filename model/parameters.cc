#include "model/parameters.h"

namespace tessera {
namespace {

void AddFeedForward(int64_t hidden, int64_t intermediate, int64_t count,
                    std::vector<LinearShape>& linears) {
  if (intermediate == 0 || count == 0) return;
  linears.push_back({.n = 2 * intermediate, .k = hidden, .count = count});  // gate and up
  linears.push_back({.n = hidden, .k = intermediate, .count = count});      // down
}

// Elements of norms and biases.
int64_t LayerVectors(const ModelConfig& config) {
  int64_t elements = 2 * config.hidden;
  if (config.qkv_bias) elements += (config.heads + 2 * config.kv_heads) * config.head_size;
  if (config.qk_norm) elements += 2 * config.head_size;
  return elements;
}

}  // namespace

std::vector<LinearShape> LayerLinears(const ModelConfig& config, int64_t layer) {
  const int64_t d = config.hidden;
  const int64_t q = config.heads * config.head_size;
  const int64_t kv = config.kv_heads * config.head_size;
  std::vector<LinearShape> linears = {{.n = q + 2 * kv, .k = d}, {.n = d, .k = q}};
  if (!config.IsSparse(layer)) {
    AddFeedForward(d, config.intermediate, 1, linears);
    return linears;
  }
  const MoeConfig& moe = config.moe;
  linears.push_back({.n = moe.experts, .k = d, .quantized = false});
  AddFeedForward(d, moe.intermediate, moe.experts, linears);
  if (moe.shared_intermediate > 0) {
    AddFeedForward(d, moe.shared_intermediate, 1, linears);
    linears.push_back({.n = 1, .k = d, .quantized = false});
  }
  return linears;
}

int64_t LayerParameters(const ModelConfig& config, int64_t layer) {
  int64_t elements = LayerVectors(config);
  for (const LinearShape& linear : LayerLinears(config, layer))
    elements += linear.n * linear.k * linear.count;
  return elements;
}

int64_t ParameterCount(const ModelConfig& config) {
  int64_t elements = config.hidden;  // the final norm
  elements += config.vocab * config.hidden * (config.tied_embeddings ? 1 : 2);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    elements += LayerParameters(config, layer);
  return elements;
}

int64_t LayerWeightBytes(const ModelConfig& config, int64_t layer) {
  int64_t bytes = LayerVectors(config) * SizeOf(config.dtype);
  for (const LinearShape& linear : LayerLinears(config, layer)) {
    const QuantFormat format = linear.quantized ? config.quant : QuantFormat();
    bytes += WeightBytes(format, config.dtype, linear.n, linear.k) * linear.count;
  }
  return bytes;
}

int64_t VocabWeightBytes(const ModelConfig& config) {
  return config.vocab * config.hidden * SizeOf(config.dtype);
}

}  // namespace tessera
