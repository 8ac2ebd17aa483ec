#include "model/families.h"

#include <array>
#include <string>

#include <absl/strings/str_cat.h>

namespace tessera {
namespace {

// Facts from the model and configuration files of transformers, src/transformers/models/.
constexpr std::array<Family, 4> kFamilies = {{
    // Qwen1.5, Qwen2 and Qwen2.5.
    {.architecture = "Qwen2ForCausalLM", .qkv_bias = QkvBias::kAlways},
    // Llama 2, 3 and 3.x.
    {.architecture = "LlamaForCausalLM"},
    {.architecture = "Qwen3ForCausalLM", .qk_norm = true, .default_head_size = 128},
    {.architecture = "Qwen2MoeForCausalLM",
     .qkv_bias = QkvBias::kUnlessTold,
     .routed_experts = true},
}};

}  // namespace

absl::StatusOr<const Family*> FindFamily(absl::string_view architecture) {
  std::string known;
  for (const Family& family : kFamilies) {
    if (family.architecture == architecture) return &family;
    absl::StrAppend(&known, known.empty() ? "" : ", ", family.architecture);
  }
  return absl::UnimplementedError(
      absl::StrCat("architecture \"", architecture.substr(0, 100), "\": want one of ", known));
}

}  // namespace tessera
