// The weights one rank holds: names, local shapes, and where each comes from in the checkpoint. The
// planner sums this table, the loader fills it and the layers look their pointers up in it by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/shard.h"

namespace tessera {

enum class WeightRole : uint8_t {
  kMatrix,     // [n, k] of a linear layer
  kEmbedding,  // [rows, d] of the vocabulary
  kNorm,       // RMSNorm weight
  kBias,
};

// A rectangle of a checkpoint tensor and its place in the local buffer.
struct WeightPart {
  std::string tensor;
  // The whole tensor's shape that the config demands; a vector is [1, n].
  int64_t tensor_rows = 0, tensor_cols = 0;
  TensorBlock block;
  int64_t dst_row = 0, dst_col = 0;
};

// One buffer, a [rows, cols] matrix of one dtype; vectors are [1, n].
// Names: embed, head, final_norm, layers.{i}.{attn_norm, qkv, qkv_bias, q_norm, k_norm, o,
// mlp_norm, gate_up, down}; {i} counts from 0 over the whole model. qkv holds q rows, k rows, v
// rows; gate_up gate rows, up rows. embed and head have the shard's vocab_width rows; those past
// its vocab range are padding that no part fills.
struct WeightSpec {
  std::string name;
  WeightRole role = WeightRole::kMatrix;
  int64_t rows = 0, cols = 0;
  std::vector<WeightPart> parts;
};

// In load order. With tied embeddings, `head` is left out where the rank holds `embed` itself, and
// read from the embedding tensor elsewhere (the last of several stages). kUnimplemented: routed
// experts (planned in bytes only until their execution lands).
absl::StatusOr<std::vector<WeightSpec>> WeightTable(const ModelConfig& config, const Shard& shard);

// Checks that `checkpoint` has every tensor of the table with its shape and a float dtype, and no
// tensor the model does not know (stray rotary_emb.inv_freq and a tied head that equals the
// embedding are allowed). kDataLoss: names tensor, shape seen and needed. kUnimplemented: routed
// experts, quantized weights. Errors of Checkpoint::Read.
absl::Status CheckTensors(const ModelConfig& config, const Checkpoint& checkpoint);

}  // namespace tessera
