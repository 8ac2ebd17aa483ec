// Which linear layers of a model are quantized and how: what the config says, settled by the
// tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include "common/quant_format.h"
#include "model/checkpoint.h"
#include "model/quant_config.h"

namespace tessera {

struct ModelConfig;

// A linear layer of a checkpoint, [n, k].
struct LinearModule {
  std::string name;  // "model.layers.0.self_attn.q_proj", "lm_head"
  int64_t n = 0, k = 0;
};

// The linear layers of a dense model in order: of each layer q, k, v, o, gate, up, down; the head.
std::vector<LinearModule> LinearModules(const ModelConfig& config);

struct QuantModule {
  QuantFormat format;
  // The group of each of the k inputs, as the file lists them; empty where that is input / group.
  std::vector<int32_t> g_idx;
};

// The quantized ones by name; the others are dense.
struct QuantModules {
  QuantFormat base;    // the config's `quant` these were found for
  std::string source;  // where the config says so, for messages
  std::map<std::string, QuantModule, std::less<>> modules;
};

// What `quant` alone says, for a model whose tensors are not at hand.
QuantModules StatedModules(const QuantConfig& quant, const ModelConfig& config,
                           absl::string_view source);

// Reads names and g_idx of `checkpoint`: a layer is quantized where it has a .qweight. kDataLoss: a
// rule for this layer says otherwise, nothing is quantized although the config says so (both
// named), or a g_idx of the wrong type, size or range.
absl::StatusOr<QuantModules> FindModules(const QuantConfig& quant, const ModelConfig& config,
                                         const Checkpoint& checkpoint, absl::string_view source);

// How linear layer `name` is stored; kNone: dense. With config.quant_modules absent, or found for
// another `quant`, every linear layer but the head has config.quant and its inputs in order.
struct LinearQuant {
  QuantFormat format;
  absl::Span<const int32_t> g_idx;  // empty: input / group; borrows from config.quant_modules
};
LinearQuant QuantOf(const ModelConfig& config, absl::string_view name);

// Checks the tensors of a quantized layer: types and shapes by its bits and group. kDataLoss: names
// the tensor, what it is and what `source` needs it to be.
absl::Status CheckQuantTensors(const LinearModule& module, const QuantFormat& format,
                               absl::string_view source, const Checkpoint& checkpoint);

}  // namespace tessera
