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

// Two are as fast apart (72B over two GPUs, H200, 2026-11-21: 158.9 and 159.0 tokens/s).
inline constexpr int kPackedChainLeast = 3, kPackedChainMost = 4;
inline constexpr int64_t kPackedChainWidth =
    32 * 1024;  // outputs of a product but the last, at most

// How the first products of a sequence go in one launch.
struct PackedChainPlan {
  int count = 0;  // of products, or 0
  // Stages, and where sums and x lie in shared memory, are the same in all.
  std::array<PackedGemvPlan, kPackedChainMost> products;
  // The product whose y is one's residual, or -1: none of the launch.
  std::array<int8_t, kPackedChainMost> residual_from = {};
};

// The longest chain that `products` start with. Each but the first has the y of the one before as
// x; a residual is the whole y of one before or memory that none of them writes.
PackedChainPlan PlanPackedChain(const GemvGpu& gpu, absl::Span<const LinearArgs> products);

// Enqueues the plan's products, checked, as LinearCuda would one after the other: with the same
// bits. As for LaunchPackedGemv, packed weights and norm weights must be complete before the kernel
// ahead is enqueued. The blocks, one a multiprocessor, wait for each other: all must be able to run
// at once, so two such launches must not overlap on a device (they have an order on one stream).
// Nothing else on the device may hold a multiprocessor while it waits for the host or another
// device. sm_90. kInternal: the launch was refused.
absl::Status LaunchPackedChain(absl::Span<const LinearArgs> products, const PackedChainPlan& plan,
                               cudaStream_t stream);

}  // namespace tessera
