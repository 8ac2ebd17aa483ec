#include "model/weight_table.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"
#include "model/json.h"

namespace tessera {
namespace {

constexpr absl::string_view kEmbedTensor = "model.embed_tokens.weight";
constexpr absl::string_view kHeadTensor = "lm_head.weight";

// Scales a range of heads to rows or columns.
Range Scaled(Range range, int64_t by) { return {range.begin * by, range.end * by}; }

// Builds the table of one shard.
class Table {
 public:
  Table(const ModelConfig& config, const Shard& shard) : config_(config), shard_(shard) {}

  std::vector<WeightSpec> Build() {
    if (shard_.first()) AddVocab("embed", kEmbedTensor);
    for (int64_t layer = shard_.layers.begin; layer < shard_.layers.end; ++layer) AddLayer(layer);
    if (!shard_.last()) return std::move(specs_);
    AddVector("final_norm", WeightRole::kNorm, "model.norm.weight", config_.hidden);
    if (!config_.tied_embeddings) {
      AddVocab("head", kHeadTensor);
    } else if (!shard_.first()) {
      AddVocab("head", kEmbedTensor);
    }
    return std::move(specs_);
  }

 private:
  WeightSpec& Add(std::string name, WeightRole role, int64_t rows, int64_t cols) {
    return specs_.emplace_back(WeightSpec{std::move(name), role, rows, cols, {}});
  }

  // Appends rows `range` of the [total, cols] tensor below the parts already there.
  static void AddRows(WeightSpec& spec, std::string tensor, int64_t total, Range range) {
    const int64_t below = spec.parts.empty()
                              ? 0
                              : spec.parts.back().dst_row + spec.parts.back().block.row_end -
                                    spec.parts.back().block.row_begin;
    spec.parts.push_back({.tensor = std::move(tensor),
                          .tensor_rows = total,
                          .tensor_cols = spec.cols,
                          .block = {range.begin, range.end, 0, spec.cols},
                          .dst_row = below});
  }

  // Appends elements `range` of the vector of `total` after the parts already there.
  static void AddElements(WeightSpec& spec, std::string tensor, int64_t total, Range range) {
    const int64_t after = spec.parts.empty()
                              ? 0
                              : spec.parts.back().dst_col + spec.parts.back().block.col_end -
                                    spec.parts.back().block.col_begin;
    spec.parts.push_back({.tensor = std::move(tensor),
                          .tensor_rows = 1,
                          .tensor_cols = total,
                          .block = {0, 1, range.begin, range.end},
                          .dst_col = after});
  }

  void AddVector(std::string name, WeightRole role, std::string tensor, int64_t size) {
    AddElements(Add(std::move(name), role, 1, size), std::move(tensor), size, {0, size});
  }

  void AddVocab(std::string name, absl::string_view tensor) {
    // Every shard is as high as the widest, so that gathered logits have one stride; rows past the
    // shard's own are padding.
    WeightSpec& spec =
        Add(std::move(name), WeightRole::kEmbedding, shard_.vocab_width, config_.hidden);
    AddRows(spec, std::string(tensor), config_.vocab, shard_.vocab);
  }

  // A matrix split along its input: all of its [d, total] rows, columns `range`.
  void AddColumns(std::string name, std::string tensor, int64_t total, Range range) {
    WeightSpec& spec = Add(std::move(name), WeightRole::kMatrix, config_.hidden, range.size());
    spec.parts.push_back({.tensor = std::move(tensor),
                          .tensor_rows = config_.hidden,
                          .tensor_cols = total,
                          .block = {0, config_.hidden, range.begin, range.end}});
  }

  void AddLayer(int64_t layer) {
    const std::string local = absl::StrCat("layers.", layer, ".");
    const std::string file = absl::StrCat("model.layers.", layer, ".");
    AddVector(local + "attn_norm", WeightRole::kNorm, file + "input_layernorm.weight",
              config_.hidden);
    AddAttention(local, file + "self_attn.");
    AddVector(local + "mlp_norm", WeightRole::kNorm, file + "post_attention_layernorm.weight",
              config_.hidden);
    WeightSpec& gate_up =
        Add(local + "gate_up", WeightRole::kMatrix, 2 * shard_.ffn.size(), config_.hidden);
    AddRows(gate_up, file + "mlp.gate_proj.weight", config_.intermediate, shard_.ffn);
    AddRows(gate_up, file + "mlp.up_proj.weight", config_.intermediate, shard_.ffn);
    AddColumns(local + "down", file + "mlp.down_proj.weight", config_.intermediate, shard_.ffn);
  }

  void AddAttention(const std::string& local, const std::string& file) {
    const int64_t e = config_.head_size;
    const Range q = Scaled(shard_.heads, e);
    const Range kv = Scaled(shard_.kv_heads, e);
    const int64_t q_rows = config_.heads * e;
    const int64_t kv_rows = config_.kv_heads * e;
    const int64_t rows = q.size() + 2 * kv.size();
    WeightSpec& qkv = Add(local + "qkv", WeightRole::kMatrix, rows, config_.hidden);
    AddRows(qkv, file + "q_proj.weight", q_rows, q);
    AddRows(qkv, file + "k_proj.weight", kv_rows, kv);
    AddRows(qkv, file + "v_proj.weight", kv_rows, kv);
    if (config_.qkv_bias) {
      WeightSpec& bias = Add(local + "qkv_bias", WeightRole::kBias, 1, rows);
      AddElements(bias, file + "q_proj.bias", q_rows, q);
      AddElements(bias, file + "k_proj.bias", kv_rows, kv);
      AddElements(bias, file + "v_proj.bias", kv_rows, kv);
    }
    if (config_.qk_norm) {
      AddVector(local + "q_norm", WeightRole::kNorm, file + "q_norm.weight", e);
      AddVector(local + "k_norm", WeightRole::kNorm, file + "k_norm.weight", e);
    }
    AddColumns(local + "o", file + "o_proj.weight", q_rows, q);
  }

  const ModelConfig& config_;
  const Shard& shard_;
  std::vector<WeightSpec> specs_;
};

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) absl::StrAppend(&text, text == "[" ? "" : ", ", size);
  return text + "]";
}

absl::Status CheckTensor(const WeightSpec& spec, const WeightPart& part,
                         const Checkpoint& checkpoint) {
  const bool vector = spec.role == WeightRole::kNorm || spec.role == WeightRole::kBias;
  std::vector<int64_t> wanted = {part.tensor_cols};
  if (!vector) wanted.insert(wanted.begin(), part.tensor_rows);
  const absl::StatusOr<const TensorEntry*> found = checkpoint.Find(part.tensor);
  if (!found.ok()) {
    return absl::DataLossError(absl::StrCat(
        "tensor ", part.tensor, " is not in the checkpoint, needed as ", ShapeText(wanted)));
  }
  const TensorEntry& tensor = **found;
  const std::string& path = checkpoint.file_path(tensor.file);
  if (tensor.shape != wanted) {
    return absl::DataLossError(absl::StrCat(path, ": tensor ", tensor.name, " is ",
                                            ShapeText(tensor.shape), ", config.json needs ",
                                            ShapeText(wanted)));
  }
  if (IsFloat(tensor.dtype)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path, ": tensor ", tensor.name, " is ",
                                          Name(tensor.dtype), ", must be f32, f16 or bf16"));
}

// Tensors that some writers add and no model needs.
bool IsStray(const ModelConfig& config, absl::string_view name) {
  return absl::EndsWith(name, ".rotary_emb.inv_freq") ||
         (config.tied_embeddings && name == kHeadTensor);
}

// The head of a tied model may be in the files as a copy of the embedding. One that differs is
// trained: transformers 5 uses it, transformers 4 drops it, so the files must say which. Compares
// rows spread over the vocabulary, to read megabytes rather than the whole of both.
absl::Status CheckTiedHead(const Checkpoint& checkpoint) {
  constexpr int64_t kComparedRows = 256;
  const absl::StatusOr<const TensorEntry*> head = checkpoint.Find(kHeadTensor);
  const absl::StatusOr<const TensorEntry*> embedding = checkpoint.Find(kEmbedTensor);
  if (!head.ok() || !embedding.ok()) return absl::OkStatus();
  const absl::Status differs = absl::DataLossError(absl::StrCat(
      checkpoint.file_path((*head)->file), ": tensor ", kHeadTensor, " differs from ", kEmbedTensor,
      ", and tie_word_embeddings is true; must be false for a head of its own"));
  if ((*head)->shape != (*embedding)->shape || (*head)->dtype != (*embedding)->dtype)
    return differs;
  const int64_t rows = (*head)->rows();
  const int64_t compared = std::min(rows, kComparedRows);
  std::vector<char> ours(static_cast<size_t>((*head)->cols() * SizeOf((*head)->dtype)));
  std::vector<char> theirs(ours.size());
  for (int64_t i = 0; i < compared; ++i) {
    const int64_t row = compared == 1 ? 0 : i * (rows - 1) / (compared - 1);
    const TensorBlock block = {row, row + 1, 0, (*head)->cols()};
    RETURN_IF_ERROR(checkpoint.Read(**head, block, ours.data()));
    RETURN_IF_ERROR(checkpoint.Read(**embedding, block, theirs.data()));
    if (ours != theirs) return differs;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<WeightSpec>> WeightTable(const ModelConfig& config, const Shard& shard) {
  if (config.moe.experts > 0) {
    return absl::UnimplementedError(
        absl::StrCat(config.architecture, ": routed experts cannot be loaded"));
  }
  return Table(config, shard).Build();
}

absl::Status CheckTensors(const ModelConfig& config, const Checkpoint& checkpoint) {
  if (config.quant.method != QuantMethod::kNone) {
    return absl::UnimplementedError(
        absl::StrCat(config.architecture, ": quantized checkpoints cannot be loaded"));
  }
  ASSIGN_OR_RETURN(const Shard whole, MakeShard(config, {1, 1}, 0, 8));
  ASSIGN_OR_RETURN(const std::vector<WeightSpec> table, WeightTable(config, whole));
  std::set<absl::string_view> known;
  for (const WeightSpec& spec : table) {
    for (const WeightPart& part : spec.parts) {
      RETURN_IF_ERROR(CheckTensor(spec, part, checkpoint));
      known.insert(part.tensor);
    }
  }
  if (config.tied_embeddings) RETURN_IF_ERROR(CheckTiedHead(checkpoint));
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (known.count(name) > 0 || IsStray(config, name)) continue;
    return absl::DataLossError(absl::StrCat(checkpoint.file_path(tensor.file), ": tensor ",
                                            DescribeJson(nlohmann::json(name)), " is none of ",
                                            config.architecture, "'s"));
  }
  return absl::OkStatus();
}

}  // namespace tessera
