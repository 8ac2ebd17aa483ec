#include "coordinator/model_files.h"

#include <utility>

#include "common/status_macros.h"

namespace tessera {

absl::StatusOr<std::shared_ptr<const ModelFiles>> LoadModelFiles(const std::string& dir,
                                                                 absl::string_view chat_template) {
  ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(dir));
  ASSIGN_OR_RETURN(GenerationConfig generation, LoadGenerationConfig(dir, config));
  ASSIGN_OR_RETURN(ModelText text, ModelText::Load(dir, chat_template));
  return std::make_shared<const ModelFiles>(
      ModelFiles{std::move(config), std::move(generation), std::move(text)});
}

}  // namespace tessera
