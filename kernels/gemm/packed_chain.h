// Products over packed weights of one row of x each, one after the other in one launch: weights of
// the next load while one ends.
#pragma once

#include <vector>

#include <absl/status/status.h>
#include <absl/types/span.h>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_gemv_config.h"

namespace tessera {

inline constexpr int kPackedChainMost = 4;

// How many of `products`, from the first on, one launch takes; below 2: none.
int PackedChainLength(const GemvGpu& gpu, absl::Span<const LinearArgs> products);

// Plans for products that one launch takes: stages, and where things lie in shared memory, are the
// same in all.
std::vector<PackedGemvPlan> PlanPackedChain(const GemvGpu& gpu,
                                            absl::Span<const LinearArgs> products);

// Enqueues 2 to PackedChainLength() checked products, as LinearCuda would one after the other. All
// blocks run at once, one a multiprocessor. kInternal: the launch was refused.
absl::Status LaunchPackedChain(absl::Span<const LinearArgs> products, const GemvGpu& gpu,
                               cudaStream_t stream);

}  // namespace tessera
