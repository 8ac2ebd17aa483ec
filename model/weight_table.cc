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
constexpr absl::string_view kHeadModule = "lm_head";
constexpr int64_t kMaxQuantInputs = int64_t{1} << 20;  // keeps a group's number in 16 bits

using SharedOrder = std::shared_ptr<const std::vector<int32_t>>;
using SharedInputs = std::shared_ptr<const QuantInputs>;

// Scales a range of heads to rows or columns.
Range Scaled(Range range, int64_t by) { return {range.begin * by, range.end * by}; }

// Builds the table of one shard.
class Table {
 public:
  Table(const ModelConfig& config, const Shard& shard) : config_(config), shard_(shard) {}

  absl::StatusOr<std::vector<WeightSpec>> Build() {
    if (shard_.first()) AddVocab("embed", kEmbedTensor);
    for (int64_t layer = shard_.layers.begin; layer < shard_.layers.end; ++layer)
      RETURN_IF_ERROR(AddLayer(layer));
    if (!shard_.last()) return std::move(specs_);
    AddVector("final_norm", WeightRole::kNorm, "model.norm.weight", config_.hidden);
    if (QuantOf(config_, kHeadModule).format.quantized()) {
      RETURN_IF_ERROR(AddHead());
    } else if (!config_.tied_embeddings) {
      AddVocab("head", kHeadTensor);
    } else if (!shard_.first()) {
      AddVocab("head", kEmbedTensor);
    }
    return std::move(specs_);
  }

 private:
  // A linear layer of the file whose outputs are split, and what this rank keeps of it.
  struct Outputs {
    const char* name;  // of the local weight, where it is not merged with its neighbours
    LinearModule module;
    Range rows;
    SharedOrder order;  // in place of `rows`
    LinearQuant quant;
    int64_t count() const {
      return order != nullptr ? static_cast<int64_t>(order->size()) : rows.size();
    }
  };

  WeightSpec& Add(std::string name, WeightRole role, int64_t rows, int64_t cols) {
    return specs_.emplace_back(WeightSpec{std::move(name), role, rows, cols, {}});
  }

  // Appends rows `range` of the [total, cols] tensor, or those of `order`, below the parts already
  // there.
  static void AddRows(WeightSpec& spec, std::string tensor, int64_t total, Range range,
                      SharedOrder order = nullptr) {
    const int64_t below =
        spec.parts.empty() ? 0 : spec.parts.back().dst_row + spec.parts.back().rows();
    spec.parts.push_back({.tensor = std::move(tensor),
                          .tensor_rows = total,
                          .tensor_cols = spec.cols,
                          .block = {range.begin, range.end, 0, spec.cols},
                          .dst_row = below,
                          .order = std::move(order)});
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

  // Whether a kernel takes the whole matrix; splits keep to the same units.
  static absl::Status CheckSizes(const LinearModule& module) {
    if (module.n % kQuantUnitN == 0 && module.k % kQuantUnitK == 0 && module.k <= kMaxQuantInputs)
      return absl::OkStatus();
    return absl::UnimplementedError(absl::StrCat(
        module.name, ": quantized [", module.n, ", ", module.k, "], must be multiples of ",
        kQuantUnitN, " and ", kQuantUnitK, ", with at most ", kMaxQuantInputs, " inputs"));
  }

  static SharedInputs Share(QuantInputs inputs) {
    return std::make_shared<const QuantInputs>(std::move(inputs));
  }

  static InputGroups GroupsOf(const LinearModule& module, const LinearQuant& quant) {
    return {.total = module.k, .group = quant.format.group, .g_idx = quant.g_idx};
  }

  static int PackedBits(const QuantFormat& format) {
    return FindQuantRow(format.method, format.bits)->packed_bits;
  }

  // Whether one packed weight can hold both: their scales and inputs lie alike.
  static bool Alike(const Outputs& a, const Outputs& b) {
    if (!a.quant.format.quantized() || !b.quant.format.quantized())
      return a.quant.format.quantized() == b.quant.format.quantized();
    return PackedBits(a.quant.format) == PackedBits(b.quant.format) &&
           a.quant.format.group == b.quant.format.group && a.quant.g_idx == b.quant.g_idx;
  }

  // Linear layers that share their input: one weight if they are alike, else one of each.
  absl::Status AddOutputs(const std::string& local, const char* merged,
                          const std::vector<Outputs>& all) {
    const bool alike = std::all_of(all.begin(), all.end(),
                                   [&](const Outputs& one) { return Alike(all.front(), one); });
    if (alike) return AddMerged(local + merged, all);
    for (const Outputs& one : all) RETURN_IF_ERROR(AddMerged(local + one.name, {one}));
    return absl::OkStatus();
  }

  absl::Status AddMerged(std::string name, const std::vector<Outputs>& all) {
    int64_t rows = 0;
    for (const Outputs& one : all) rows += one.count();
    const Outputs& first = all.front();
    WeightSpec& spec = Add(std::move(name), WeightRole::kMatrix, rows, first.module.k);
    if (!first.quant.format.quantized()) {
      for (const Outputs& one : all)
        AddRows(spec, one.module.name + ".weight", one.module.n, one.rows, one.order);
      return absl::OkStatus();
    }
    for (const Outputs& one : all) RETURN_IF_ERROR(CheckSizes(one.module));
    SetInputs(spec, first.quant.format,
              Share(InputsOfRange(GroupsOf(first.module, first.quant), {0, first.module.k})));
    spec.packed.ordered = !spec.packed.inputs->in_order();
    for (const Outputs& one : all) AddPackedRows(spec, one);
    return absl::OkStatus();
  }

  static void SetInputs(WeightSpec& spec, const QuantFormat& format, SharedInputs inputs) {
    spec.packed.bits = PackedBits(format);
    spec.cols = inputs->k;
    spec.packed.inputs = std::move(inputs);
  }

  static void AddPackedRows(WeightSpec& spec, const Outputs& one) {
    PackedSpec& packed = spec.packed;
    packed.zeros = packed.zeros || !one.quant.format.symmetric;
    const int64_t below =
        packed.parts.empty() ? 0 : packed.parts.back().dst_row + packed.parts.back().count();
    packed.parts.push_back({one.module, one.quant.format, one.rows, one.order, below});
  }

  // A matrix split along its input: all of its [d, total] rows, columns `range`. A quantized one
  // takes `inputs` in the order in which the layer before it holds its rows; without, it sorts its
  // range by group and keeps the order.
  absl::Status AddInputs(std::string name, const LinearModule& module, Range range,
                         SharedInputs inputs) {
    WeightSpec& spec = Add(std::move(name), WeightRole::kMatrix, config_.hidden, range.size());
    const LinearQuant quant = QuantOf(config_, module.name);
    if (!quant.format.quantized()) {
      spec.parts.push_back({.tensor = module.name + ".weight",
                            .tensor_rows = config_.hidden,
                            .tensor_cols = module.k,
                            .block = {0, config_.hidden, range.begin, range.end}});
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(CheckSizes(module));
    const bool folded = inputs != nullptr;
    if (!folded) inputs = Share(InputsOfRange(GroupsOf(module, quant), range));
    SetInputs(spec, quant.format, std::move(inputs));
    spec.packed.ordered = !folded && !spec.packed.inputs->in_order();
    spec.packed.first_input = range.begin;
    AddPackedRows(spec, {.module = module, .rows = {0, module.n}, .quant = quant});
    return absl::OkStatus();
  }

  absl::Status AddLayer(int64_t layer) {
    const std::string local = absl::StrCat("layers.", layer, ".");
    const std::string file = absl::StrCat("model.layers.", layer, ".");
    AddVector(local + "attn_norm", WeightRole::kNorm, file + "input_layernorm.weight",
              config_.hidden);
    RETURN_IF_ERROR(AddAttention(local, file + "self_attn."));
    AddVector(local + "mlp_norm", WeightRole::kNorm, file + "post_attention_layernorm.weight",
              config_.hidden);
    return AddFeedForward(local, file + "mlp.");
  }

  // Where down's inputs are not in order, gate and up hold their rows in the order that down wants:
  // each rank the rows of a run of down's groups.
  absl::Status AddFeedForward(const std::string& local, const std::string& file) {
    const LinearModule down = {file + "down_proj", config_.hidden, config_.intermediate};
    const LinearQuant quant = QuantOf(config_, down.name);
    std::vector<Outputs> gate_up = {Output("gate", file + "gate_proj", config_.intermediate),
                                    Output("up", file + "up_proj", config_.intermediate)};
    SharedInputs inputs;
    if (!quant.g_idx.empty()) {
      RETURN_IF_ERROR(CheckSizes(down));
      inputs = Share(InputsOfSortedRange(GroupsOf(down, quant), shard_.ffn));
    }
    for (Outputs& one : gate_up) {
      one.rows = shard_.ffn;
      if (inputs != nullptr) one.order = SharedOrder(inputs, &inputs->source);
    }
    RETURN_IF_ERROR(AddOutputs(local, "gate_up", gate_up));
    return AddInputs(local + "down", down, shard_.ffn, inputs);
  }

  Outputs Output(const char* name, const std::string& module, int64_t n) const {
    return {.name = name,
            .module = {module, n, config_.hidden},
            .rows = {},
            .order = nullptr,
            .quant = QuantOf(config_, module)};
  }

  absl::Status AddAttention(const std::string& local, const std::string& file) {
    const int64_t e = config_.head_size;
    const Range q = Scaled(shard_.heads, e);
    const Range kv = Scaled(shard_.kv_heads, e);
    const int64_t q_rows = config_.heads * e;
    const int64_t kv_rows = config_.kv_heads * e;
    const int64_t rows = q.size() + 2 * kv.size();
    std::vector<Outputs> qkv = {Output("q", file + "q_proj", q_rows),
                                Output("k", file + "k_proj", kv_rows),
                                Output("v", file + "v_proj", kv_rows)};
    for (Outputs& one : qkv) one.rows = one.name[0] == 'q' ? q : kv;
    RETURN_IF_ERROR(AddOutputs(local, "qkv", qkv));
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
    return AddInputs(local + "o", {file + "o_proj", config_.hidden, q_rows}, q, nullptr);
  }

  // Every shard is as high as the widest, as AddVocab() says.
  absl::Status AddHead() {
    Outputs head = Output("head", std::string(kHeadModule), config_.vocab);
    head.rows = shard_.vocab;
    RETURN_IF_ERROR(AddMerged("head", {head}));
    specs_.back().rows = shard_.vocab_width;
    return absl::OkStatus();
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

// Of a model that nothing calls quantized.
absl::Status CheckNothingPacked(const Checkpoint& checkpoint) {
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (!absl::EndsWith(name, ".qweight")) continue;
    return absl::DataLossError(absl::StrCat(
        checkpoint.file_path(tensor.file), ": tensor ", DescribeJson(nlohmann::json(name)),
        " is quantized; neither config.json nor quantize_config.json beside it says how"));
  }
  return absl::OkStatus();
}

// AutoGPTQ wrote a bias of zeros beside every quantized layer, whether it had one or not.
absl::Status CheckZeroBias(const TensorEntry& bias, const Checkpoint& checkpoint) {
  const std::string& path = checkpoint.file_path(bias.file);
  if (bias.cols() != 0 && bias.bytes > (int64_t{64} << 20))
    return absl::DataLossError(
        absl::StrCat(path, ": tensor ", bias.name, " of ", bias.bytes, " bytes is no bias"));
  std::vector<char> bytes(static_cast<size_t>(bias.bytes));
  RETURN_IF_ERROR(checkpoint.Read(bias, {0, bias.rows(), 0, bias.cols()}, bytes.data()));
  if (std::all_of(bytes.begin(), bytes.end(), [](char c) { return c == 0; }))
    return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(path, ": tensor ", bias.name,
                                          " is not zero, and the architecture has no such bias"));
}

// The tensors of a packed weight's layers, which `known` gets and of which `zero_biases` may exist.
absl::Status CheckPacked(const ModelConfig& config, const WeightSpec& spec,
                         const Checkpoint& checkpoint, std::set<std::string, std::less<>>& known,
                         std::set<std::string, std::less<>>& zero_biases) {
  const std::string source =
      config.quant_modules != nullptr ? config.quant_modules->source : "config.json";
  for (const PackedPart& part : spec.packed.parts) {
    const std::string& name = part.module.name;
    RETURN_IF_ERROR(CheckQuantTensors(part.module, part.format, source, checkpoint));
    for (const char* suffix : {".qweight", ".qzeros", ".scales", ".g_idx"})
      known.insert(name + suffix);
    zero_biases.insert(name + ".bias");
    if (checkpoint.Find(name + ".weight").ok()) {
      return absl::DataLossError(
          absl::StrCat("the checkpoint has both ", name, ".qweight and ", name, ".weight"));
    }
  }
  return absl::OkStatus();
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

int64_t WeightPart::rows() const {
  return order != nullptr ? static_cast<int64_t>(order->size()) : block.row_end - block.row_begin;
}

int64_t PackedPart::count() const {
  return order != nullptr ? static_cast<int64_t>(order->size()) : rows.size();
}

PackedShape WeightSpec::packed_shape() const {
  return {.bits = packed.bits,
          .n = rows,
          .k = cols,
          .groups = static_cast<int64_t>(packed.inputs->groups.size()),
          .zeros = packed.zeros,
          .ragged = !packed.inputs->group_of_step.empty(),
          .ordered = packed.ordered};
}

int64_t WeightSpec::bytes(DType dtype) const {
  return is_packed() ? PackedOffsetsOf(packed_shape()).bytes : rows * cols * SizeOf(dtype);
}

absl::Status CheckTensors(const ModelConfig& config, const Checkpoint& checkpoint) {
  if (!config.quant.quantized()) RETURN_IF_ERROR(CheckNothingPacked(checkpoint));
  ASSIGN_OR_RETURN(const Shard whole, MakeShard(config, {1, 1}, 0, 8));
  ASSIGN_OR_RETURN(const std::vector<WeightSpec> table, WeightTable(config, whole));
  std::set<std::string, std::less<>> known, zero_biases;
  for (const WeightSpec& spec : table) {
    if (spec.is_packed())
      RETURN_IF_ERROR(CheckPacked(config, spec, checkpoint, known, zero_biases));
    for (const WeightPart& part : spec.parts) {
      RETURN_IF_ERROR(CheckTensor(spec, part, checkpoint));
      known.insert(part.tensor);
    }
  }
  if (config.tied_embeddings) RETURN_IF_ERROR(CheckTiedHead(checkpoint));
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (known.count(name) > 0 || IsStray(config, name)) continue;
    if (zero_biases.count(name) > 0) {
      RETURN_IF_ERROR(CheckZeroBias(tensor, checkpoint));
      continue;
    }
    return absl::DataLossError(absl::StrCat(checkpoint.file_path(tensor.file), ": tensor ",
                                            DescribeJson(nlohmann::json(name)), " is none of ",
                                            config.architecture, "'s"));
  }
  return absl::OkStatus();
}

}  // namespace tessera
