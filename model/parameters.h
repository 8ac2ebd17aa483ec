// How many weights a model has and what they weigh, layer by layer, routed experts included.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace tessera {

// `count` linear layers of one shape [n, k].
struct LinearShape {
  int64_t n = 0, k = 0, count = 1;
  bool quantized = true;  // stored in the model's QuantFormat; routers and gates stay dense
};

// The linear layers of decoder layer `layer`. Empty groups are left out.
std::vector<LinearShape> LayerLinears(const ModelConfig& config, int64_t layer);

// Elements of decoder layer `layer`: linear layers, biases and norms.
int64_t LayerParameters(const ModelConfig& config, int64_t layer);

// Elements of the whole model; tied embeddings count once.
int64_t ParameterCount(const ModelConfig& config);

// Device bytes of decoder layer `layer` (unsharded), and of one [v, d] matrix.
int64_t LayerWeightBytes(const ModelConfig& config, int64_t layer);
int64_t VocabWeightBytes(const ModelConfig& config);

}  // namespace tessera
