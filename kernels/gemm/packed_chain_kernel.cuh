// Several few-row products over packed weights in one launch, each reading what those before wrote,
// and the kernel's instances for one activation type.
#pragma once

#include "kernels/gemm/packed_chain.h"
#include "kernels/gemm/packed_gemv_kernel.cuh"

namespace tessera {
namespace packed_gemv {

struct ChainParams {
  Params products[kPackedChainMost];
  int count = 0;
  unsigned long long* arrivals = nullptr;  // of blocks at barriers of the grid, ever
};

// A barrier of all blocks of the grid, which are all resident. One thread of a block at a time.
class GridBarrier {
 public:
  __device__ explicit GridBarrier(unsigned long long* arrivals) : arrivals_(arrivals) {}

  // What the block wrote before is seen by those that Wait().
  __device__ __forceinline__ void Arrive() {
    __threadfence();
    const unsigned long long blocks = gridDim.x, before = atomicAdd(arrivals_, 1ull);
    all_ = (before / blocks + 1) * blocks;
  }
  __device__ __forceinline__ void Wait() const {
    unsigned long long seen = 0;
    do {
      asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(arrivals_) : "memory");
    } while (seen < all_);
  }

 private:
  unsigned long long* const arrivals_;
  unsigned long long all_ = 0;
};

// The loading warps run on from product to product; the others meet at a barrier of the grid
// between two. Grid: a block each multiprocessor; block kPackedGemvThreads.
template <typename T, int kBits, bool kZeros>
__global__ void __launch_bounds__(kPackedGemvThreads, 1)
    ChainKernel(const __grid_constant__ ChainParams chain) {
  constexpr PackedGemvForm kForm = PackedGemvForm::kLarge;
  constexpr PackedSegment kSegment = PackedSegment::kBlock;
  using Ring = StageRing<kBits, kSegment, kForm>;
  extern __shared__ __align__(128) char memory[];
  LetNextStart();
  const Shared<kForm> shared(chain.products[0], memory);  // as of every product
  const int loader = WarpIndex() - kPackedGemvWarps;
  GridBarrier grid(chain.arrivals);
  const BlockWork first(chain.products[0].plan);
  Ring ring(chain.products[0], first, SharedAddress(shared.ring), SharedAddress(shared.barriers),
            nullptr);
  if (loader == 0 && LaneIndex() == 0) ring.Init();
  __syncthreads();
  for (int i = 0; i < chain.count; ++i) {
    const Params& p = chain.products[i];
    const BlockWork block(p.plan);
    const Shared<kForm> of_product(p, memory);
    Ring mine(p, block, SharedAddress(shared.ring), SharedAddress(shared.barriers), nullptr);
    mine.GoOnFrom(ring);
    if (loader >= 0) {
      mine.LoadAll(loader == 0);
    } else {
      MultiplyAll<T, kBits, kSegment, kZeros, kForm, true>(p, block, of_product, mine, i == 0, [&] {
        if (i == 0) {
          WaitForPrevious();
        } else {
          if (threadIdx.x == 0) grid.Wait();
          NamedWait<kPackedGemvWarps * kWarp>(kMultiplyBarrier);
        }
      });
      if (i + 1 < chain.count) {
        NamedWait<kPackedGemvWarps * kWarp>(kMultiplyBarrier);  // all outputs are written
        if (threadIdx.x == 0) grid.Arrive();
      }
    }
    ring.GoOnFrom(mine);
  }
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
