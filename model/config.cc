#include "model/config.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"
#include "model/checkpoint.h"
#include "model/families.h"
#include "model/file.h"
#include "model/json.h"
#include "model/parameters.h"
#include "model/quant_config.h"
#include "model/quant_modules.h"
#include "model/rope.h"
#include "model/token_ids.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr IntRange kLayers = {1, 1024};
constexpr IntRange kHidden = {8, int64_t{1} << 20};
constexpr IntRange kHeads = {1, 1024};
constexpr IntRange kHeadSize = {1, 4096};
constexpr IntRange kIntermediate = {1, int64_t{1} << 22};
constexpr IntRange kVocab = {1, int64_t{1} << 24};
constexpr IntRange kPositions = {1, int64_t{1} << 24};
constexpr IntRange kExperts = {1, 1024};
constexpr std::array<absl::string_view, 2> kDTypeFields = {"torch_dtype", "dtype"};
// Far above any model; keeps every later count of elements and bytes inside 64 bits.
constexpr int64_t kMaxParameters = 1'000'000'000'000'000;

// The config object, its name in messages, and its row of the families table.
struct Source {
  const json& object;
  absl::string_view name;
  const Family& family;
};

absl::Status Invalid(const Source& from, absl::string_view field, int64_t value,
                     absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(from.name, ": ", field, " is ", value, ", must be ", wanted));
}

// `fallback` when the field is absent or null.
absl::StatusOr<int64_t> IntInOr(const Source& from, absl::string_view field, int64_t fallback,
                                IntRange range) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> value, FindInt(from.object, field, from.name));
  if (!value) return fallback;
  return GetIntIn(from.object, field, from.name, range);
}

absl::StatusOr<bool> BoolOr(const Source& from, absl::string_view field, bool fallback) {
  ASSIGN_OR_RETURN(const std::optional<bool> value, FindBool(from.object, field, from.name));
  return value.value_or(fallback);
}

absl::StatusOr<const Family*> ParseArchitecture(const json& object, absl::string_view name) {
  ASSIGN_OR_RETURN(const json* architectures, GetArray(object, "architectures", name));
  if (architectures->size() != 1 || !architectures->front().is_string()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": architectures is ",
                                                   DescribeJson(*architectures),
                                                   ", must be an array of one string"));
  }
  absl::StatusOr<const Family*> family =
      FindFamily(architectures->front().get_ref<const std::string&>());
  if (family.ok()) return family;
  return absl::Status(family.status().code(), absl::StrCat(name, ": ", family.status().message()));
}

// Refuses what would change the forward pass and is not computed.
absl::Status CheckOptions(const Source& from) {
  for (const absl::string_view field : {"use_sliding_window", "mlp_bias"}) {
    ASSIGN_OR_RETURN(const bool used, BoolOr(from, field, false));
    if (used) {
      return absl::UnimplementedError(
          absl::StrCat(from.name, ": ", field, " is true, only false is supported"));
    }
  }
  ASSIGN_OR_RETURN(const std::optional<std::string> activation,
                   FindString(from.object, "hidden_act", from.name));
  if (activation.value_or("silu") != "silu") {
    return absl::UnimplementedError(absl::StrCat(
        from.name, ": hidden_act is ", DescribeJson(*activation), ", only silu is supported"));
  }
  ASSIGN_OR_RETURN(const json* kinds, FindArray(from.object, "layer_types", from.name));
  if (kinds == nullptr) return absl::OkStatus();
  for (const json& kind : *kinds) {
    if (kind != "full_attention") {
      return absl::UnimplementedError(absl::StrCat(from.name, ": layer_types has ",
                                                   DescribeJson(kind),
                                                   ", only full_attention is supported"));
    }
  }
  return absl::OkStatus();
}

absl::Status ParseHeads(const Source& from, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.heads, GetIntIn(from.object, "num_attention_heads", from.name, kHeads));
  ASSIGN_OR_RETURN(config.kv_heads, IntInOr(from, "num_key_value_heads", config.heads, kHeads));
  if (config.heads % config.kv_heads != 0) {
    return Invalid(from, "num_key_value_heads", config.kv_heads,
                   absl::StrCat("a divisor of num_attention_heads ", config.heads));
  }
  ASSIGN_OR_RETURN(config.head_size,
                   IntInOr(from, "head_dim", from.family.default_head_size, kHeadSize));
  if (config.head_size == 0) {
    if (config.hidden % config.heads != 0) {
      return Invalid(from, "hidden_size", config.hidden,
                     absl::StrCat("a multiple of num_attention_heads ", config.heads,
                                  " where head_dim is absent"));
    }
    config.head_size = config.hidden / config.heads;
  }
  if (config.head_size != 32 && config.head_size != 64 && config.head_size != 128) {
    return absl::UnimplementedError(absl::StrCat(from.name, ": head size ", config.head_size,
                                                 ", supported are 32, 64 and 128"));
  }
  return absl::OkStatus();
}

absl::Status ParseShape(const Source& from, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.layers, GetIntIn(from.object, "num_hidden_layers", from.name, kLayers));
  ASSIGN_OR_RETURN(config.hidden, GetIntIn(from.object, "hidden_size", from.name, kHidden));
  if (config.hidden % 8 != 0) return Invalid(from, "hidden_size", config.hidden, "a multiple of 8");
  RETURN_IF_ERROR(ParseHeads(from, config));
  ASSIGN_OR_RETURN(config.intermediate,
                   GetIntIn(from.object, "intermediate_size", from.name, kIntermediate));
  if (config.intermediate % 8 != 0)
    return Invalid(from, "intermediate_size", config.intermediate, "a multiple of 8");
  ASSIGN_OR_RETURN(config.vocab, GetIntIn(from.object, "vocab_size", from.name, kVocab));
  ASSIGN_OR_RETURN(config.max_positions,
                   GetIntIn(from.object, "max_position_embeddings", from.name, kPositions));
  return absl::OkStatus();
}

absl::Status ParseNumerics(const Source& from, ModelConfig& config) {
  // The default is that of every family's configuration file in transformers.
  ASSIGN_OR_RETURN(const std::optional<double> eps,
                   FindDouble(from.object, "rms_norm_eps", from.name));
  config.rms_norm_eps = eps.value_or(1e-6);
  if (!(config.rms_norm_eps > 0.0 && config.rms_norm_eps < 1.0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        from.name, ": rms_norm_eps is ", config.rms_norm_eps, ", must be above 0 and below 1"));
  }
  ASSIGN_OR_RETURN(config.tied_embeddings, BoolOr(from, "tie_word_embeddings", false));
  config.qk_norm = from.family.qk_norm;
  if (from.family.qkv_bias == QkvBias::kNever) {
    ASSIGN_OR_RETURN(const bool bias, BoolOr(from, "attention_bias", false));
    if (bias) {
      return absl::UnimplementedError(absl::StrCat(
          from.name, ": attention_bias is true, only false is supported for this architecture"));
    }
  } else if (from.family.qkv_bias == QkvBias::kUnlessTold) {
    ASSIGN_OR_RETURN(config.qkv_bias, BoolOr(from, "qkv_bias", true));
  } else {
    config.qkv_bias = true;
  }
  for (const absl::string_view field : kDTypeFields) {
    ASSIGN_OR_RETURN(const std::optional<std::string> text,
                     FindString(from.object, field, from.name));
    if (!text) continue;
    const absl::StatusOr<DType> dtype = ParseFloatDType(*text);
    if (!dtype.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(from.name, ": ", field, " is ",
                                                     DescribeJson(*text),
                                                     ", must be float32, float16 or bfloat16"));
    }
    config.dtype = *dtype;
  }
  return absl::OkStatus();
}

absl::Status ParseDenseLayers(const Source& from, ModelConfig& config) {
  ASSIGN_OR_RETURN(const json* dense, FindArray(from.object, "mlp_only_layers", from.name));
  if (dense == nullptr) return absl::OkStatus();
  for (const json& layer : *dense) {
    const bool valid =
        layer.is_number_unsigned() && layer.get<uint64_t>() < static_cast<uint64_t>(config.layers);
    if (!valid) {
      return absl::InvalidArgumentError(
          absl::StrCat(from.name, ": mlp_only_layers has ", DescribeJson(layer),
                       ", must be layers from 0 to ", config.layers - 1));
    }
    config.moe.dense_layers.push_back(layer.get<int64_t>());
  }
  return absl::OkStatus();
}

absl::Status ParseMoe(const Source& from, ModelConfig& config) {
  MoeConfig& moe = config.moe;
  // transformers 5 may write num_local_experts for num_experts.
  ASSIGN_OR_RETURN(moe.experts, IntInOr(from, "num_local_experts", 0, kExperts));
  if (moe.experts == 0) {
    ASSIGN_OR_RETURN(moe.experts, GetIntIn(from.object, "num_experts", from.name, kExperts));
  }
  ASSIGN_OR_RETURN(moe.experts_per_token,
                   GetIntIn(from.object, "num_experts_per_tok", from.name, {1, moe.experts}));
  ASSIGN_OR_RETURN(moe.intermediate,
                   GetIntIn(from.object, "moe_intermediate_size", from.name, kIntermediate));
  ASSIGN_OR_RETURN(moe.shared_intermediate, GetIntIn(from.object, "shared_expert_intermediate_size",
                                                     from.name, kIntermediate));
  for (const auto& [field, value] :
       {std::pair("moe_intermediate_size", moe.intermediate),
        {"shared_expert_intermediate_size", moe.shared_intermediate}}) {
    if (value % 8 != 0) return Invalid(from, field, value, "a multiple of 8");
  }
  ASSIGN_OR_RETURN(moe.normalize_top_k, BoolOr(from, "norm_topk_prob", false));
  ASSIGN_OR_RETURN(moe.sparse_step, IntInOr(from, "decoder_sparse_step", 1, kLayers));
  return ParseDenseLayers(from, config);
}

absl::Status ParseTokenIds(const Source& from, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.bos_id,
                   FindTokenId(from.object, "bos_token_id", from.name, config.vocab));
  ASSIGN_OR_RETURN(config.eos_ids,
                   FindTokenIds(from.object, "eos_token_id", from.name, config.vocab));
  return absl::OkStatus();
}

// The context that yarn stretches the model to. Configs of Qwen2.5 get the scaling added by hand,
// with max_position_embeddings left at the original length.
int64_t YarnPositions(const RopeConfig& rope) {
  if (rope.kind != RopeKind::kYarn) return 0;
  const double positions = rope.factor * static_cast<double>(rope.original_max_positions);
  return static_cast<int64_t>(std::min(positions, static_cast<double>(kPositions.max)));
}

// Whole-model limit; no partial sum overflows, since one layer's elements fit 62 bits.
absl::Status CheckSize(const Source& from, const ModelConfig& config) {
  int64_t total = 2 * config.vocab * config.hidden;
  for (int64_t layer = 0; layer < config.layers && total <= kMaxParameters; ++layer)
    total += LayerParameters(config, layer);
  if (total <= kMaxParameters) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      from.name, ": the sizes make more than ", kMaxParameters, " parameters (hidden_size ",
      config.hidden, ", num_hidden_layers ", config.layers, ")"));
}

absl::StatusOr<ModelConfig> ParseObject(const Source& from) {
  ModelConfig config;
  config.architecture = std::string(from.family.architecture);
  RETURN_IF_ERROR(CheckOptions(from));
  RETURN_IF_ERROR(ParseShape(from, config));
  RETURN_IF_ERROR(ParseNumerics(from, config));
  if (from.family.routed_experts) RETURN_IF_ERROR(ParseMoe(from, config));
  RETURN_IF_ERROR(CheckSize(from, config));
  RETURN_IF_ERROR(ParseTokenIds(from, config));
  ASSIGN_OR_RETURN(config.rope, ParseRope(from.object, config.max_positions, from.name));
  config.max_positions = std::max(config.max_positions, YarnPositions(config.rope));
  return config;
}

// What the files say of quantization: the JSON text, which is all of it or config.json's, and
// where.
struct QuantText {
  json object;
  absl::string_view text;
  std::string source;
};

// Sets the quantization of `config`; layer by layer where tensors or rules say more than one thing.
absl::Status ApplyQuant(const QuantText& said, const Checkpoint* checkpoint, ModelConfig& config) {
  ASSIGN_OR_RETURN(const QuantConfig quant,
                   QuantConfig::Parse(said.object, said.source, said.text));
  config.quant = quant.base();
  if (config.moe.experts > 0) return absl::OkStatus();
  if (checkpoint != nullptr) {
    ASSIGN_OR_RETURN(QuantModules found, FindModules(quant, config, *checkpoint, said.source));
    config.quant_modules = std::make_shared<const QuantModules>(std::move(found));
  } else if (quant.has_rules()) {
    config.quant_modules =
        std::make_shared<const QuantModules>(StatedModules(quant, config, said.source));
  }
  return absl::OkStatus();
}

// config.json's quantization_config, if it has one.
absl::StatusOr<std::optional<QuantText>> QuantOfConfig(const json& object, absl::string_view text,
                                                       absl::string_view source) {
  ASSIGN_OR_RETURN(const json* quant, FindObject(object, "quantization_config", source));
  if (quant == nullptr) return std::optional<QuantText>();
  return std::optional<QuantText>({*quant, text, absl::StrCat(source, ": quantization_config")});
}

absl::StatusOr<json> ParseText(absl::string_view text, absl::string_view source) {
  absl::StatusOr<json> object = ParseJson(text, source);
  if (!object.ok()) return absl::InvalidArgumentError(object.status().message());
  return object;
}

absl::StatusOr<ModelConfig> ParseConfig(const json& object, absl::string_view source) {
  ASSIGN_OR_RETURN(const Family* family, ParseArchitecture(object, source));
  return ParseObject({object, source, *family});
}

bool NamesDType(const json& object) {
  return std::any_of(kDTypeFields.begin(), kDTypeFields.end(), [&](absl::string_view field) {
    const auto found = object.find(std::string(field));
    return found != object.end() && !found->is_null();
  });
}

// The embedding's; bf16 where there are no weights, or no embedding, which is refused later.
DType CheckpointDType(const Checkpoint* checkpoint) {
  if (checkpoint == nullptr) return DType::kBf16;
  const absl::StatusOr<const TensorEntry*> embedding =
      checkpoint->Find("model.embed_tokens.weight");
  return embedding.ok() && IsFloat((*embedding)->dtype) ? (*embedding)->dtype : DType::kBf16;
}

// Nothing when there are no weights.
absl::StatusOr<std::optional<Checkpoint>> OpenCheckpoint(const std::string& dir) {
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(dir);
  if (absl::IsNotFound(checkpoint.status())) return std::optional<Checkpoint>();
  if (!checkpoint.ok()) return checkpoint.status();
  return std::optional<Checkpoint>(*std::move(checkpoint));
}

// The first file beside config.json that quantizers write, whole; `path` is set to its name.
absl::StatusOr<std::optional<json>> QuantFileBeside(const std::string& dir, std::string& path,
                                                    std::string& text) {
  for (const char* name :
       {"quantize_config.json", "quant_config.json", "quantization_config.json"}) {
    path = absl::StrCat(dir, "/", name);
    absl::StatusOr<std::string> read = ReadFile(path, kMaxConfigBytes);
    if (absl::IsNotFound(read.status())) continue;
    if (!read.ok()) return read.status();
    text = *std::move(read);
    ASSIGN_OR_RETURN(json object, ParseText(text, path));
    return std::optional<json>(std::move(object));
  }
  return std::optional<json>();
}

bool HasQuantTensors(const Checkpoint& checkpoint) {
  return std::any_of(checkpoint.tensors().begin(), checkpoint.tensors().end(),
                     [](const auto& t) { return absl::EndsWith(t.first, ".qweight"); });
}

}  // namespace

bool ModelConfig::IsSparse(int64_t layer) const {
  if (moe.experts == 0 || (layer + 1) % moe.sparse_step != 0) return false;
  return std::find(moe.dense_layers.begin(), moe.dense_layers.end(), layer) ==
         moe.dense_layers.end();
}

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text, absl::string_view source) {
  ASSIGN_OR_RETURN(const json object, ParseText(text, source));
  ASSIGN_OR_RETURN(ModelConfig config, ParseConfig(object, source));
  ASSIGN_OR_RETURN(const std::optional<QuantText> quant, QuantOfConfig(object, text, source));
  if (quant) RETURN_IF_ERROR(ApplyQuant(*quant, nullptr, config));
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir) {
  const std::string path = absl::StrCat(dir, "/config.json");
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
  ASSIGN_OR_RETURN(const json object, ParseText(text, path));
  ASSIGN_OR_RETURN(ModelConfig config, ParseConfig(object, path));
  ASSIGN_OR_RETURN(std::optional<QuantText> quant, QuantOfConfig(object, text, path));
  std::string beside_path, beside_text;
  const bool stated = quant.has_value();
  if (!stated) {
    ASSIGN_OR_RETURN(std::optional<json> beside, QuantFileBeside(dir, beside_path, beside_text));
    if (beside) quant = QuantText{*std::move(beside), beside_text, beside_path};
  }
  if (NamesDType(object) && !quant) return config;
  ASSIGN_OR_RETURN(const std::optional<Checkpoint> checkpoint, OpenCheckpoint(dir));
  const Checkpoint* tensors = checkpoint ? &*checkpoint : nullptr;
  if (!NamesDType(object)) config.dtype = CheckpointDType(tensors);
  // A file beside config.json may be left over from another checkpoint.
  if (quant && (stated || tensors == nullptr || HasQuantTensors(*tensors)))
    RETURN_IF_ERROR(ApplyQuant(*quant, tensors, config));
  return config;
}

}  // namespace tessera
