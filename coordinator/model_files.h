// What the coordinator reads of a checkpoint directory: everything but the weights.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "coordinator/model_text.h"
#include "model/config.h"
#include "model/generation_config.h"
#include "proto/inference.pb.h"

namespace tessera {

struct ModelFiles {
  ModelConfig config;
  GenerationConfig generation;
  ModelText text;
};

// Reads `dir`: config.json, and generation_config.json, tokenizer and chat template where there
// are any. Of `options`, chat_template names a built-in template (empty: the model's own is
// recognised), and quant the format of dummy weights (empty: config.json's). kInvalidArgument:
// quant is no format's name, or real weights are to be loaded and are in another. Other errors:
// those of LoadModelConfig, LoadGenerationConfig and ModelText::Load.
absl::StatusOr<std::shared_ptr<const ModelFiles>> LoadModelFiles(const std::string& dir,
                                                                 const v1::ModelOptions& options);

}  // namespace tessera
