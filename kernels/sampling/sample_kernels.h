// The kernels behind SampleCuda, in the order they run. Compiles without nvcc.
//
//   ChunkScan   rows x chunks blocks: each chunk's best candidate and, when log-probabilities are
//               wanted, its largest logit, exp sum and top candidates; clears the row's bins
//   WeightBins  rows x chunks blocks: count and weight of each row's candidates by weight bin
//   ChooseIds   one block a row: merges the chunks; greedy rows are done; the others find, in one
//               or two bins each, where top-k and top-p cut and which candidate is drawn
//
// A greedy batch needs the first and the last only. All start with WaitForPrevious().
#pragma once

#include <cstdint>

#include <absl/status/status.h>

#include "kernels/runtime/stream.h"
#include "kernels/sampling/sample.h"

namespace tessera {

// SampleArgs with its workspace divided (sample_workspace.h). Passed to kernels by value.
struct SampleKernelArgs {
  SampleArgs sample;
  int64_t chunks = 0;
  uint64_t* best = nullptr;
  uint64_t* top = nullptr;
  float* raw_best = nullptr;
  float* raw_sum = nullptr;
  unsigned long long* bin_mass = nullptr;  // the type that CUDA's atomics take
  uint32_t* bin_count = nullptr;
  unsigned long long* min_p_mass = nullptr;
};

// Each enqueues one kernel; rows > 0. kInternal: the launch was refused.
absl::Status LaunchChunkScan(const SampleKernelArgs& args, cudaStream_t stream);
absl::Status LaunchWeightBins(const SampleKernelArgs& args, cudaStream_t stream);
absl::Status LaunchChooseIds(const SampleKernelArgs& args, cudaStream_t stream);

}  // namespace tessera
