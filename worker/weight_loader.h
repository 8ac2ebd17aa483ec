// Fills a rank's weights, from a checkpoint or with dummy values.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "kernels/ops.h"
#include "kernels/runtime/runtime.h"
#include "layers/weights.h"
#include "model/weight_table.h"
#include "worker/arena.h"

namespace tessera {

struct LoadOptions {
  std::string model_dir;
  bool dummy = false;                // random weights, a function of (tensor name, global index)
  DType matrix_dtype = DType::kF32;  // MatrixDType() of the layout
  DType vector_dtype = DType::kF32;
  int reader_threads = 4;
  // Bytes of checkpoint read (dummy: of weights made) so far and in all; called from the calling
  // thread.
  std::function<void(int64_t loaded, int64_t total)> progress;
};

// Reads this rank's bytes alone, in parallel, into their final place; host memory beyond that is
// reader_threads buffers of 16 MiB. Floats are converted to the layout's type as they pass;
// quantized weights are repacked on the device. Errors as Checkpoint::Open(), CheckTensors(),
// AddPackedJobs() and Checkpoint::Read() give them.
absl::StatusOr<WeightMap> LoadWeights(const ModelConfig& config,
                                      const std::vector<WeightSpec>& table,
                                      const LoadOptions& options, const Arena& arena,
                                      Runtime& runtime, const Ops& ops);

}  // namespace tessera
