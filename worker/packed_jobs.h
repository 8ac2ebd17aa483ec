// The jobs that fill a packed weight.
#pragma once

#include <vector>

#include <absl/status/status.h>

#include "kernels/ops.h"
#include "kernels/runtime/runtime.h"
#include "model/weight_table.h"
#include "worker/packed_source.h"
#include "worker/read_jobs.h"

namespace tessera {

// What the jobs use while they run; all outlive them.
struct PackedLoad {
  const PackedSource* source = nullptr;
  Runtime* runtime = nullptr;
  const Ops* ops = nullptr;
  // CUDA: kStagingBytes of device memory that nothing else uses meanwhile.
  char* device_staging = nullptr;
};

// Appends the jobs that fill `weight`, spec.packed_shape()'s bytes of zeroed device memory. What
// they give: errors of the source; kDataLoss: zero points of a symmetric layer that are not
// constant. Ones that are off by one throughout (a gptq_v2 file called gptq, or the other way
// round) are logged and read as symmetric.
absl::Status AddPackedJobs(const WeightSpec& spec, char* weight, const PackedLoad& load,
                           std::vector<ReadJob>& jobs);

}  // namespace tessera
