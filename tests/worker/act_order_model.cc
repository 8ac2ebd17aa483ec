#include "tests/worker/act_order_model.h"

#include <cmath>
#include <cstdint>
#include <utility>

#include "tests/support/op_fixture.h"

namespace tessera::testing {
namespace {

constexpr int64_t kGroup = 32, kHidden = 64;

std::string F16Bytes(const std::vector<float>& values) {
  const std::vector<uint8_t> bytes = ToBytes(DType::kF16, values);
  return {bytes.begin(), bytes.end()};
}

// A permutation of k inputs in groups of 32; another for each seed.
std::vector<int32_t> ShuffledGroups(int64_t k, uint64_t seed) {
  std::vector<int32_t> groups;
  for (int64_t i = 0; i < k; ++i) groups.push_back(static_cast<int32_t>(i / kGroup));
  SeededRandom random(seed);
  for (int64_t i = k - 1; i > 0; --i)
    std::swap(groups[static_cast<size_t>(i)], groups[static_cast<size_t>(random.Below(i + 1))]);
  return groups;
}

// One linear layer, [n, k], as a GPTQ layer and as the dense one it means.
void SetLinear(const std::string& name, int64_t n, int64_t k, const std::vector<int32_t>& groups,
               QuantCheckpoint& packed, QuantCheckpoint& dense) {
  SeededRandom random(std::hash<std::string>()(name));
  const auto un = static_cast<size_t>(n), uk = static_cast<size_t>(k);
  std::vector<float> scales, weights(un * uk);
  for (int64_t i = 0; i < k / kGroup * n; ++i)
    scales.push_back(static_cast<float>(std::exp2(-5.0 - static_cast<double>(random.Below(2)))));
  std::vector<uint32_t> words(un * uk / 8);
  for (size_t i = 0; i < uk; ++i) {
    const size_t group = groups.empty() ? i / kGroup : static_cast<size_t>(groups[i]);
    for (size_t j = 0; j < un; ++j) {
      const auto q = static_cast<uint32_t>(random.Below(16));
      words[i / 8 * un + j] |= q << (i % 8 * 4);
      weights[j * uk + i] = scales[group * un + j] * (static_cast<float>(q) - 8.f);
    }
  }
  packed.AddLinear(name, n, k);
  packed.tensors()[name + ".qweight"].bytes =
      std::string(reinterpret_cast<const char*>(words.data()), words.size() * 4);
  packed.tensors()[name + ".scales"].bytes = F16Bytes(scales);
  if (!groups.empty()) packed.SetGroups(name, groups);
  dense.AddDense(name, n, k);
  dense.tensors()[name + ".weight"].bytes = F16Bytes(weights);
}

struct Layer {
  std::string module, name;
  int64_t n = 0, k = 0;
};
const std::vector<Layer>& Layers() {
  static const auto* layers =
      new std::vector<Layer>{{"model.layers.0.self_attn.", "q_proj", 64, 64},
                             {"model.layers.0.self_attn.", "k_proj", 64, 64},
                             {"model.layers.0.self_attn.", "v_proj", 64, 64},
                             {"model.layers.0.self_attn.", "o_proj", 64, 64},
                             {"model.layers.0.mlp.", "gate_proj", 96, 64},
                             {"model.layers.0.mlp.", "up_proj", 96, 64},
                             {"model.layers.0.mlp.", "down_proj", 64, 96},
                             {"", "lm_head", 64, 64}};
  return *layers;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const ActOrderCase& c) { return out << c.name; }

std::vector<ActOrderCase> ActOrderCases() {
  return {
      {"EveryLayerOrdered",
       {{"q_proj", 1},
        {"k_proj", 1},
        {"v_proj", 1},
        {"o_proj", 2},
        {"gate_proj", 3},
        {"up_proj", 3},
        {"down_proj", 4}},
       ""},
      {"QueryKeyAndValueEachInTheirOwn", {{"q_proj", 1}, {"k_proj", 2}, {"v_proj", 3}}, ""},
      {"ValuesInOrderBesideOrderedQueries", {{"q_proj", 1}, {"k_proj", 1}}, ""},
      {"GateAndUpInDifferentOnes", {{"gate_proj", 1}, {"up_proj", 2}, {"down_proj", 3}}, ""},
      {"DownFoldedIntoADenseGateToo", {{"up_proj", 2}, {"down_proj", 3}}, "gate_proj"},
      {"ADenseQueryBesideOrderedKeys", {{"k_proj", 1}, {"v_proj", 1}}, "q_proj"},
      {"AnOrderedHead", {{"lm_head", 5}}, ""},
  };
}

ActOrderModel::ActOrderModel(const ActOrderCase& c) {
  SeededRandom random(1);
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
    const std::string bytes = F16Bytes(random.Normal(64 * kHidden, 1.f));
    for (QuantCheckpoint* files : {&packed, &dense}) files->tensors()[name].bytes = bytes;
  }
  for (const char* name : {"model.layers.0.input_layernorm.weight",
                           "model.layers.0.post_attention_layernorm.weight", "model.norm.weight"}) {
    const std::string bytes = F16Bytes(random.Uniform(kHidden, 0.5f, 1.5f));
    for (QuantCheckpoint* files : {&packed, &dense}) files->tensors()[name].bytes = bytes;
  }
  for (const Layer& layer : Layers()) {
    const auto seed = c.seeds.find(layer.name);
    if (layer.name == "lm_head" && seed == c.seeds.end()) continue;
    const std::vector<int32_t> groups =
        seed == c.seeds.end() ? std::vector<int32_t>() : ShuffledGroups(layer.k, seed->second);
    const std::string module = layer.module + layer.name;
    SetLinear(module, layer.n, layer.k, groups, packed, dense);
    if (layer.name != c.dense) continue;
    packed.AddDense(module, layer.n, layer.k);
    packed.tensors()[module + ".weight"] = dense.tensors()[module + ".weight"];
  }
  packed.quant()["lm_head"] = c.seeds.count("lm_head") > 0;
  dense.config().erase("quantization_config");
}

}  // namespace tessera::testing
