// Several few-row products over packed weights in one launch, each reading what those before wrote,
// and the kernel's instances for one activation type.
#pragma once

#include "kernels/gemm/packed_chain.h"
#include "kernels/gemm/packed_chain_exchange.cuh"
#include "kernels/gemm/packed_gemv_kernel.cuh"

namespace tessera {
namespace packed_gemv {

// Of a thread: so that a block of the decode attention kernel has room beside one of these.
constexpr int kPackedChainRegisters = 80;

struct ChainParams {
  Params products[kPackedChainMost];
  int8_t residual_from[kPackedChainMost];  // the product whose y is the residual, or -1
  int count = 0;
  ChainExchange* exchange = nullptr;
};

// The part of the exchange that launch `launch` sends in. After the wait for the previous kernel.
class LaunchExchange {
 public:
  __device__ __forceinline__ LaunchExchange(const ChainParams& chain, uint32_t launch)
      : chain_(chain), launch_(launch) {}

  __device__ __forceinline__ Links Of(int product) const {
    auto& sent = chain_.exchange->sent[launch_ % 2];
    const int residual = chain_.residual_from[product];
    return {.x = product > 0 ? sent[product - 1] : nullptr,
            .residual = residual >= 0 ? sent[residual] : nullptr,
            .y = product + 1 < chain_.count ? sent[product] : nullptr};
  }
  // By a warp of each block: clears what the launch before sent.
  __device__ __forceinline__ void ClearOther() const {
    auto* const other = reinterpret_cast<uint4*>(chain_.exchange->sent[(launch_ + 1) % 2]);
    constexpr int kPieces = static_cast<int>(sizeof(ChainExchange::Sent) / sizeof(uint4));
    const auto blocks = static_cast<int>(gridDim.x);
    for (int i = LaneIndex() * blocks + static_cast<int>(blockIdx.x); i < kPieces;
         i += kWarp * blocks)
      other[i] = {};
  }
  // By one thread of the grid, when all blocks have sent something: so all know the number.
  __device__ __forceinline__ void End() const { chain_.exchange->launches = launch_ + 1; }

 private:
  const ChainParams& chain_;
  const uint32_t launch_;
};

// Each warp runs on from product to product at its own pace. Grid: a block each multiprocessor, all
// at once; block kPackedGemvThreads.
template <typename T, int kBits, bool kZeros>
__global__ void __maxnreg__(kPackedChainRegisters)
    ChainKernel(const __grid_constant__ ChainParams chain) {
#if __CUDA_ARCH__ >= 900
  constexpr PackedGemvForm kForm = PackedGemvForm::kLarge;
  constexpr PackedSegment kSegment = PackedSegment::kBlock;
  using Ring = StageRing<kBits, kSegment, kForm>;
  extern __shared__ __align__(128) char memory[];
  LetNextStart();
  const Params& first = chain.products[0];  // both rings are those of every product
  const Shared<kForm> shared(first, memory);
  const BlockWork first_block(first.plan);
  Ring ring(first, first_block, SharedAddress(shared.ring), shared.barriers, nullptr);
  SumRing sum_ring(first.plan, shared.sums, shared.sum_barriers);
  const int warp = WarpIndex();
  if (warp == kLoadingWarp && LaneIndex() == 0) {
    sum_ring.Init(1);
    ring.Init();
  }
  __syncthreads();
  if (warp == kLoadingWarp) {
    for (int i = 0; i < chain.count; ++i) {
      const BlockWork block(chain.products[i].plan);
      Ring mine(chain.products[i], block, SharedAddress(shared.ring), shared.barriers, nullptr);
      mine.GoOnFrom(ring);
      mine.LoadAll();
      ring.GoOnFrom(mine);
    }
    return;
  }
  for (int i = 0; i < chain.count; ++i) TouchParams(chain.products[i]);
  WaitForPrevious();
  if (warp == kWritingWarp) {
    const LaunchExchange exchange(chain, LaunchesOf(*chain.exchange));
    exchange.ClearOther();
    for (int i = 0; i < chain.count; ++i) {
      const Params& p = chain.products[i];
      const BlockWork block(p.plan);
      OutputWriter<kForm, ChainPlace<T>>(p, block, {p.args, exchange.Of(i)}, 0).WriteAll(sum_ring);
    }
    if (blockIdx.x == 0 && LaneIndex() == 0) exchange.End();
    return;
  }
  uint32_t launch = 0;
  for (int i = 0; i < chain.count; ++i) {
    const Params& p = chain.products[i];
    const Shared<kForm> of_product(p, memory);
    ChainX<T, kBits> x(p, LaunchExchange(chain, launch).Of(i).x, of_product.xs,
                       of_product.norm_weight, of_product.units);
    MultiplyAll<kBits, kSegment, kZeros, kForm>(
        p, ring, sum_ring, x,
        [&] {
          x.Start();
          if (i > 0) return;
          if (threadIdx.x == 0) ring.AllowAll();
          launch = LaunchesOf(*chain.exchange);  // x of the first product does not wait for it
        },
        [](int) {});
  }
#endif
}

using ChainFn = void (*)(ChainParams);

// By bits and zeros; each compiled in a file of its own.
ChainFn ChainBf16(int bits, bool zeros);
ChainFn ChainF16(int bits, bool zeros);

template <typename T>
ChainFn ChainOf(int bits, bool zeros) {
  if (bits == 4) return zeros ? ChainKernel<T, 4, true> : ChainKernel<T, 4, false>;
  return zeros ? ChainKernel<T, 8, true> : ChainKernel<T, 8, false>;
}

}  // namespace packed_gemv
}  // namespace tessera
