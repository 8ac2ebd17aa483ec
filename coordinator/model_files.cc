#include "coordinator/model_files.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "common/quant_format.h"
#include "common/status_macros.h"

namespace tessera {
namespace {

absl::Status ApplyQuant(const std::string& dir, const v1::ModelOptions& options,
                        ModelConfig& config) {
  if (options.quant().empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const QuantFormat wanted, ParseQuantFormat(options.quant()));
  if (options.load_format() == "dummy") {
    config.quant = wanted;
    return absl::OkStatus();
  }
  const std::string stored = NameOf(config.quant);
  if (stored == options.quant()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("options.quant: ", options.quant(), ", and the weights of ", dir, " are ",
                   stored, "; only dummy weights (load_format dummy) take another format"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelFiles>> LoadModelFiles(const std::string& dir,
                                                                 const v1::ModelOptions& options) {
  ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(dir));
  RETURN_IF_ERROR(ApplyQuant(dir, options, config));
  ASSIGN_OR_RETURN(GenerationConfig generation, LoadGenerationConfig(dir, config));
  ASSIGN_OR_RETURN(ModelText text, ModelText::Load(dir, options.chat_template()));
  return std::make_shared<const ModelFiles>(
      ModelFiles{std::move(config), std::move(generation), std::move(text)});
}

}  // namespace tessera
