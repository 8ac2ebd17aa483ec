// The `post_processor` stage of tokenizer.json: the special tokens around an encoded text.
#pragma once

#include <cstdint>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <nlohmann/json.hpp>

namespace tessera {

struct PostProcessor {
  std::vector<int32_t> before;  // such as the beginning-of-text token
  std::vector<int32_t> after;

  // `value` is null, ByteLevel (which moves offsets only), TemplateProcessing or a Sequence of
  // these. `source` names it in messages. kInvalidArgument: a field has the wrong type. kDataLoss:
  // a template without the text itself, naming a special token it does not define, or an id outside
  // [0, id_end). kUnimplemented: any other type, or a template with a second text.
  static absl::StatusOr<PostProcessor> Parse(const nlohmann::json& value, int64_t id_end,
                                             absl::string_view source);
};

}  // namespace tessera
