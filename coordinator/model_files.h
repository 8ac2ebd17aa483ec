// What the coordinator reads of a checkpoint directory: everything but the weights.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "coordinator/model_text.h"
#include "model/config.h"
#include "model/generation_config.h"

namespace tessera {

struct ModelFiles {
  ModelConfig config;
  GenerationConfig generation;
  ModelText text;
};

// Reads `dir`: config.json, and generation_config.json, tokenizer and chat template where there
// are any. `chat_template` names a built-in template; empty: the model's own is recognised.
// Errors: those of LoadModelConfig, LoadGenerationConfig and ModelText::Load.
absl::StatusOr<std::shared_ptr<const ModelFiles>> LoadModelFiles(const std::string& dir,
                                                                 absl::string_view chat_template);

}  // namespace tessera
