// The table of model families: what an architecture name alone decides.
#pragma once

#include <cstdint>

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

namespace tessera {

enum class QkvBias : uint8_t {
  kNever,       // attention_bias must be false: a bias of o_proj would come with it
  kAlways,      // whatever the config says
  kUnlessTold,  // unless qkv_bias is false
};

struct Family {
  absl::string_view architecture;  // config.json's architectures[0]
  QkvBias qkv_bias = QkvBias::kNever;
  bool qk_norm = false;
  bool routed_experts = false;
  int64_t default_head_size = 0;  // when head_dim is absent; 0: hidden_size / heads
};

// The row of `architecture`; static. kUnimplemented: none, and the message lists the known ones.
absl::StatusOr<const Family*> FindFamily(absl::string_view architecture);

}  // namespace tessera
