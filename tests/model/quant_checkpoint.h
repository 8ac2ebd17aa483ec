// A checkpoint of one small quantized Llama, to be broken in tests.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/model/safetensors_file.h"

namespace tessera::testing {

// GPTQ, 4 bits, groups of 32, symmetric: one layer, d 64, 2 heads of 32, f 96, vocabulary 64.
class QuantCheckpoint {
 public:
  struct Tensor {
    std::string dtype;
    std::vector<int64_t> shape;
    std::string bytes;  // repeated over the tensor
  };

  QuantCheckpoint() {
    config_ = {{"architectures", {"LlamaForCausalLM"}},
               {"num_hidden_layers", 1},
               {"hidden_size", 64},
               {"num_attention_heads", 2},
               {"num_key_value_heads", 2},
               {"head_dim", 32},
               {"intermediate_size", 96},
               {"vocab_size", 64},
               {"max_position_embeddings", 128},
               {"torch_dtype", "float16"},
               {"quantization_config",
                {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}, {"sym", true}}}};
    const std::string layer = "model.layers.0.";
    for (const char* name :
         {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"})
      AddLinear(layer + name, 64, 64);
    AddLinear(layer + "mlp.gate_proj", 96, 64);
    AddLinear(layer + "mlp.up_proj", 96, 64);
    AddLinear(layer + "mlp.down_proj", 64, 96);
    for (const char* name : {"model.embed_tokens", "lm_head"}) AddDense(name, 64, 64);
    for (const char* name : {"input_layernorm", "post_attention_layernorm"})
      tensors_[layer + name + ".weight"] = {"F16", {64}, ""};
    tensors_["model.norm.weight"] = {"F16", {64}, ""};
  }

  void AddLinear(const std::string& name, int64_t n, int64_t k) {
    tensors_.erase(name + ".weight");
    tensors_[name + ".qweight"] = {"I32", {k / 8, n}, ""};
    tensors_[name + ".qzeros"] = {"I32", {k / 32, n / 8}, "\x77"};
    tensors_[name + ".scales"] = {"F16", {k / 32, n}, std::string("\x00\x3c", 2)};  // 1
  }

  void AddDense(const std::string& name, int64_t n, int64_t k) {
    for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx"})
      tensors_.erase(name + part);
    tensors_[name + ".weight"] = {"F16", {n, k}, ""};
  }

  // MODULE.g_idx as given.
  void SetGroups(const std::string& name, const std::vector<int32_t>& groups) {
    tensors_[name + ".g_idx"] = {
        "I32",
        {static_cast<int64_t>(groups.size())},
        std::string(reinterpret_cast<const char*>(groups.data()), groups.size() * 4)};
  }

  nlohmann::json& quant() { return config_["quantization_config"]; }
  nlohmann::json& config() { return config_; }
  nlohmann::json& metadata() { return metadata_; }
  std::map<std::string, Tensor>& tensors() { return tensors_; }
  TempDir& dir() { return dir_; }

  // Writes config and tensors; the path of the directory.
  const std::string& Write(const std::string& file = "model.safetensors") {
    nlohmann::json header;
    if (!metadata_.empty()) header["__metadata__"] = metadata_;
    std::string body;
    for (const auto& [name, tensor] : tensors_) {
      size_t bytes = tensor.dtype == "I32" ? 4 : 2;
      for (const int64_t size : tensor.shape) bytes *= static_cast<size_t>(size);
      header[name] = TensorHeader(tensor.dtype, tensor.shape, static_cast<int64_t>(body.size()),
                                  static_cast<int64_t>(body.size() + bytes));
      const std::string unit = tensor.bytes.empty() ? std::string(1, '\0') : tensor.bytes;
      for (size_t i = 0; i < bytes; ++i) body.push_back(unit[i % unit.size()]);
    }
    dir_.Write("config.json", config_.dump());
    dir_.Write(file, SafetensorsBytes(header.dump(), body));
    return dir_.path();
  }

 private:
  nlohmann::json config_, metadata_;
  std::map<std::string, Tensor> tensors_;
  TempDir dir_;
};

}  // namespace tessera::testing
