// Where the tensors of quantized layers come from: a checkpoint, or dummy values in its format.
#pragma once

#include <cstdint>
#include <memory>

#include <absl/status/status.h>

#include "model/checkpoint.h"
#include "model/weight_table.h"

namespace tessera {

// Safe from several threads at once. Blocks are of the file's tensors, in words or elements.
class PackedSource {
 public:
  virtual ~PackedSource() = default;
  // Words of MODULE.qweight, row-major.
  virtual absl::Status Values(const PackedPart& part, const TensorBlock& block,
                              uint32_t* words) const = 0;
  // Words of MODULE.qzeros.
  virtual absl::Status Zeros(const PackedPart& part, const TensorBlock& block,
                             uint32_t* words) const = 0;
  virtual bool HasZeros(const PackedPart& part) const = 0;
  // Elements of MODULE.scales as f16. kDataLoss: one is not finite.
  virtual absl::Status Scales(const PackedPart& part, const TensorBlock& block,
                              uint16_t* scales) const = 0;
};

// The tensors passed CheckTensors(); `checkpoint` outlives the source. Logs a warning, once, where
// AutoGPTQ has written an asymmetric layer with a zero point of 0: others are lost in the file then
// (docs/quantized-formats.md).
std::unique_ptr<PackedSource> NewCheckpointSource(const Checkpoint& checkpoint);

// Random values, each a function of (layer name, place in the tensor) alone, so that every sharding
// holds the same model. Scales make weights of a spread that keeps activations of order one.
std::unique_ptr<PackedSource> NewDummySource();

}  // namespace tessera
