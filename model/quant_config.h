// What a checkpoint's config says of its quantized linear layers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

#include "common/quant_format.h"
#include "model/name_pattern.h"

namespace tessera {

// What is said of one linear layer.
struct QuantStatement {
  QuantFormat format;  // kNone: dense
  // Said of this layer by name or pattern, not of all layers or of any name with some letters in
  // it: tensors that differ are an error then, and settle it otherwise.
  bool specific = false;
  std::string where;  // for messages: `config.json: quantization_config: dynamic "-:.*down_proj"`
};

class QuantConfig {
 public:
  // Reads a quantization_config (an object), or the like that older quantizers write to a file of
  // its own. `source` names it in errors; `text` is the JSON text it is part of, or its own, from
  // which the order of rules is taken (an object's fields have none once parsed).
  // Methods: gptq (also gptq_v2), awq of the gemm version, auto-round in its GPTQ and AWQ packings.
  // kInvalidArgument: a field of the wrong type or outside its range. kUnimplemented: another
  // method, version, packing or data type; a group that no kernel takes; patterns that NamePattern
  // refuses. All name the field and the value.
  static absl::StatusOr<QuantConfig> Parse(const nlohmann::json& quantization,
                                           absl::string_view source, absl::string_view text = "");

  // Of all linear layers that no rule names, the head excepted.
  const QuantFormat& base() const { return base_; }
  // Whether any rule names single layers.
  bool has_rules() const { return !rules_.empty() || head_; }

  // Of the linear layer `module`: "model.layers.0.mlp.down_proj", "lm_head".
  QuantStatement Of(absl::string_view module) const;

 private:
  enum class Match : uint8_t { kName, kAtStart, kWithin, kPart };
  struct Rule {
    Match match = Match::kName;
    std::string text;                    // the name, or the letters of kPart
    std::optional<NamePattern> pattern;  // kAtStart, kWithin
    QuantFormat format;
    std::string where;
  };
  class Reader;

  QuantFormat base_;
  bool head_ = false;
  std::string source_;
  std::vector<Rule> rules_;  // the first that matches counts
};

}  // namespace tessera
