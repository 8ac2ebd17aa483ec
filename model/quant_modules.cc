#include "model/quant_modules.h"

#include <utility>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "common/align.h"
#include "common/status_macros.h"
#include "model/config.h"

namespace tessera {
namespace {

std::string ShapeText(DType dtype, const std::vector<int64_t>& shape) {
  return absl::StrCat(Name(dtype), " [", absl::StrJoin(shape, ", "), "]");
}

bool Has(const Checkpoint& checkpoint, const std::string& tensor) {
  return checkpoint.tensors().count(tensor) > 0;
}

// The file's list, or nothing where it says input / group.
absl::StatusOr<std::vector<int32_t>> ReadGroupIndex(const LinearModule& module,
                                                    const QuantFormat& format,
                                                    const Checkpoint& checkpoint) {
  const absl::StatusOr<const TensorEntry*> tensor = checkpoint.Find(module.name + ".g_idx");
  if (!tensor.ok() || (*tensor)->bytes == 0) return std::vector<int32_t>();
  const TensorEntry& entry = **tensor;
  const std::string& path = checkpoint.file_path(entry.file);
  if (entry.dtype != DType::kI32 || entry.shape != std::vector<int64_t>{module.k}) {
    return absl::DataLossError(absl::StrCat(path, ": tensor ", entry.name, " is ",
                                            ShapeText(entry.dtype, entry.shape), ", must be ",
                                            ShapeText(DType::kI32, {module.k})));
  }
  std::vector<int32_t> groups(static_cast<size_t>(module.k));
  RETURN_IF_ERROR(checkpoint.Read(entry, {0, 1, 0, module.k}, groups.data()));
  const int64_t count = QuantGroups(format, module.k);
  const int64_t group = format.group > 0 ? format.group : module.k;
  bool plain = true;
  for (int64_t k = 0; k < module.k; ++k) {
    const int32_t g = groups[static_cast<size_t>(k)];
    if (g < 0 || g >= count) {
      return absl::DataLossError(absl::StrCat(path, ": tensor ", entry.name, " has ", g, " at ", k,
                                              ", must be 0 to ", count - 1, " (group ",
                                              format.group, " of ", module.k, " inputs)"));
    }
    plain = plain && g == k / group;
  }
  if (plain) groups.clear();
  return groups;
}

absl::Status Contradiction(const LinearModule& module, const QuantStatement& said,
                           absl::string_view there) {
  return absl::DataLossError(absl::StrCat(said.where, " says ", module.name, " is ",
                                          Describe(said.format), ", the checkpoint has ",
                                          module.name, there));
}

}  // namespace

std::vector<LinearModule> LinearModules(const ModelConfig& c) {
  std::vector<LinearModule> modules;
  const int64_t q = c.heads * c.head_size, kv = c.kv_heads * c.head_size;
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i, ".");
    modules.push_back({layer + "self_attn.q_proj", q, c.hidden});
    modules.push_back({layer + "self_attn.k_proj", kv, c.hidden});
    modules.push_back({layer + "self_attn.v_proj", kv, c.hidden});
    modules.push_back({layer + "self_attn.o_proj", c.hidden, q});
    modules.push_back({layer + "mlp.gate_proj", c.intermediate, c.hidden});
    modules.push_back({layer + "mlp.up_proj", c.intermediate, c.hidden});
    modules.push_back({layer + "mlp.down_proj", c.hidden, c.intermediate});
  }
  modules.push_back({"lm_head", c.vocab, c.hidden});
  return modules;
}

QuantModules StatedModules(const QuantConfig& quant, const ModelConfig& config,
                           absl::string_view source) {
  QuantModules found = {.base = quant.base(), .source = std::string(source), .modules = {}};
  for (const LinearModule& module : LinearModules(config)) {
    QuantStatement said = quant.Of(module.name);
    if (said.format.quantized()) found.modules[module.name] = {.format = said.format, .g_idx = {}};
  }
  return found;
}

absl::StatusOr<QuantModules> FindModules(const QuantConfig& quant, const ModelConfig& config,
                                         const Checkpoint& checkpoint, absl::string_view source) {
  QuantModules found = {.base = quant.base(), .source = std::string(source), .modules = {}};
  for (const LinearModule& module : LinearModules(config)) {
    QuantStatement said = quant.Of(module.name);
    if (!Has(checkpoint, module.name + ".qweight")) {
      const bool dense = Has(checkpoint, module.name + ".weight");
      if (said.specific && said.format.quantized() && dense)
        return Contradiction(module, said, ".weight");
      continue;
    }
    if (!said.format.quantized()) {
      if (said.specific) return Contradiction(module, said, ".qweight");
      said.format = quant.base();
    }
    ASSIGN_OR_RETURN(std::vector<int32_t> g_idx, ReadGroupIndex(module, said.format, checkpoint));
    said.format.act_order = !g_idx.empty();
    found.modules[module.name] = {.format = said.format, .g_idx = std::move(g_idx)};
  }
  if (found.modules.empty()) {
    return absl::DataLossError(absl::StrCat(source, " says ", Describe(quant.base()),
                                            ", the checkpoint has no linear layer with .qweight"));
  }
  return found;
}

LinearQuant QuantOf(const ModelConfig& config, absl::string_view name) {
  if (config.quant_modules != nullptr && config.quant_modules->base == config.quant) {
    const auto found = config.quant_modules->modules.find(name);
    if (found == config.quant_modules->modules.end()) return {};
    return {found->second.format, found->second.g_idx};
  }
  if (!config.quant.quantized() || name == "lm_head") return {};
  return {config.quant, {}};
}

absl::Status CheckQuantTensors(const LinearModule& module, const QuantFormat& format,
                               absl::string_view source, const Checkpoint& checkpoint) {
  const QuantRow* row = FindQuantRow(format.method, format.bits);
  if (row == nullptr) return absl::UnimplementedError(Describe(format));
  const int64_t n = module.n, k = module.k, bits = format.bits;
  const int64_t groups = QuantGroups(format, k);
  const bool columns = row->packing == QuantPacking::kColumns;
  if (k % kQuantUnitK != 0 || n % kQuantUnitN != 0 || k % row->file_unit_k != 0 ||
      n % row->file_unit_n != 0) {
    return absl::UnimplementedError(absl::StrCat(
        module.name, ": [", n, ", ", k, "] in ", Describe(format), " is not in whole words of ",
        row->file_unit_n, " outputs and ", row->file_unit_k, " inputs, or no multiple of ",
        kQuantUnitN, " and ", kQuantUnitK));
  }
  using Shape = std::vector<int64_t>;
  const auto check = [&](const char* suffix, const Shape& shape, bool words) -> absl::Status {
    const absl::StatusOr<const TensorEntry*> found = checkpoint.Find(module.name + suffix);
    if (!found.ok()) {
      return absl::DataLossError(absl::StrCat(source, " says ", module.name, " is ",
                                              Describe(format), ": ", found.status().message()));
    }
    const TensorEntry& t = **found;
    const bool right_type = words ? t.dtype == DType::kI32 : IsFloat(t.dtype);
    if (right_type && t.shape == shape) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(
        checkpoint.file_path(t.file), ": tensor ", t.name, " is ", ShapeText(t.dtype, t.shape),
        "; ", source, " says ", Describe(format), ", so it must be ",
        words ? ShapeText(DType::kI32, shape)
              : absl::StrCat("f16 [", absl::StrJoin(shape, ", "), "]")));
  };
  const Shape words = columns ? Shape{k, n / 8} : Shape{k * bits / 32, n};
  const Shape zero_words = columns ? Shape{groups, n / 8} : Shape{groups, n * bits / 32};
  RETURN_IF_ERROR(check(".qweight", words, true));
  RETURN_IF_ERROR(check(".scales", {groups, n}, false));
  if (format.symmetric && !Has(checkpoint, module.name + ".qzeros")) return absl::OkStatus();
  return check(".qzeros", zero_words, true);
}

}  // namespace tessera
