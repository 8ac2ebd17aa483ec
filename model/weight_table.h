// The weights one rank holds: names, local shapes, and where each comes from in the checkpoint. The
// planner sums this table, the loader fills it and the layers look their pointers up in it by name.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "common/dtype.h"
#include "common/quant_format.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/quant_inputs.h"
#include "model/quant_modules.h"
#include "model/range.h"
#include "model/shard.h"

namespace tessera {

enum class WeightRole : uint8_t {
  kMatrix,     // [n, k] of a linear layer
  kEmbedding,  // [rows, d] of the vocabulary
  kNorm,       // RMSNorm weight
  kBias,
};

// A rectangle of a checkpoint tensor, or rows of it in an order of their own, and its place in the
// local buffer.
struct WeightPart {
  std::string tensor;
  // The whole tensor's shape that the config demands; a vector is [1, n].
  int64_t tensor_rows = 0, tensor_cols = 0;
  TensorBlock block;
  int64_t dst_row = 0, dst_col = 0;
  // The tensor's row of each local row, or negative for zeros; in place of block's rows.
  std::shared_ptr<const std::vector<int32_t>> order;
  int64_t rows() const;  // local rows
};

// Outputs of one quantized linear layer of the checkpoint, in a packed weight.
struct PackedPart {
  LinearModule module;
  QuantFormat format;
  Range rows;  // of the layer's outputs, where `order` is null
  std::shared_ptr<const std::vector<int32_t>> order;  // the output of each local row, or negative
  int64_t dst_row = 0;
  int64_t count() const;  // local rows
};

// A packed weight: kernels/gemm/packed_weight.h has its layout.
struct PackedSpec {
  int bits = 0;  // in memory; 0: the weight is dense
  bool zeros = false;
  std::shared_ptr<const QuantInputs> inputs;
  // Column j multiplies element inputs->source[j] - first_input of what the layer before it
  // computes; where each element goes is kept in memory, for that layer to write it there.
  // Otherwise its elements come in column order.
  bool ordered = false;
  int64_t first_input = 0;
  std::vector<PackedPart> parts;
};

// One buffer, a [rows, cols] matrix of one dtype or a packed weight; vectors are [1, n].
// Names: embed, head, final_norm, layers.{i}.{attn_norm, qkv, qkv_bias, q_norm, k_norm, o,
// mlp_norm, gate_up, down}; {i} counts from 0 over the whole model. qkv holds q rows, k rows, v
// rows; gate_up gate rows, up rows, both in the order in which down wants its inputs. Where these
// are not quantized alike, or their inputs are not in one order, q, k, v (gate, up) are weights of
// their own instead. embed and head have the shard's vocab_width rows; those past its vocab range
// are padding that no part fills.
struct WeightSpec {
  std::string name;
  WeightRole role = WeightRole::kMatrix;
  int64_t rows = 0, cols = 0;
  std::vector<WeightPart> parts;
  PackedSpec packed;

  bool is_packed() const { return packed.bits != 0; }
  PackedShape packed_shape() const;
  // Bytes in memory; `dtype` of the elements of a dense one.
  int64_t bytes(DType dtype) const;
};

// In load order. With tied embeddings, `head` is left out where the rank holds `embed` itself, and
// read from the embedding tensor elsewhere (the last of several stages). kUnimplemented: routed
// experts (planned in bytes only until their execution lands); a quantized matrix of sizes that no
// kernel takes.
absl::StatusOr<std::vector<WeightSpec>> WeightTable(const ModelConfig& config, const Shard& shard);

// Checks that `checkpoint` has every tensor of the table with its shape and a float dtype, and no
// tensor the model does not know (stray rotary_emb.inv_freq, a tied head that equals the embedding,
// and biases of zeros beside quantized weights are allowed). Quantized layers as
// CheckQuantTensors() does. kDataLoss: names tensor, shape seen and needed. kUnimplemented: routed
// experts. Errors of Checkpoint::Read.
absl::Status CheckTensors(const ModelConfig& config, const Checkpoint& checkpoint);

}  // namespace tessera
