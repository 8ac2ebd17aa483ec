// Products over packed weights of one row of x each, one after the other in one launch: weights of
// the next load while one ends, and what one computes is handed to the next without a barrier.
#pragma once

#include <array>
#include <cstdint>

#include <absl/status/status.h>
#include <absl/types/span.h>

#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_gemv_config.h"

namespace tessera {

inline constexpr int kPackedChainMost = 4;
inline constexpr int64_t kPackedChainWidth =
    32 * 1024;  // elements that a product hands on, at most

// How the first products of a sequence go in one launch.
struct PackedChainPlan {
  int count = 0;  // of products; below 2: none
  // Stages, and where sums and x lie in shared memory, are the same in all.
  std::array<PackedGemvPlan, kPackedChainMost> products;
  std::array<int8_t, kPackedChainMost> residual_from = {};  // the product whose y is one's
                                                            // residual, or -1
};

// The longest chain that `products` start with: each but the first has the one before's y as x.
PackedChainPlan PlanPackedChain(const GemvGpu& gpu, absl::Span<const LinearArgs> products);

// Enqueues the plan's products, checked, as LinearCuda would one after the other. All blocks run at
// once, one a multiprocessor. kInternal: the launch was refused.
absl::Status LaunchPackedChain(absl::Span<const LinearArgs> products, const PackedChainPlan& plan,
                               cudaStream_t stream);

}  // namespace tessera
