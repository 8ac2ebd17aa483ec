// How the packed few-row kernel (packed_gemv.h) cuts its work.
#pragma once

#include <cstdint>

#include "kernels/device/reduce.cuh"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_gemv_config.h"

namespace tessera {
namespace packed_gemv {

constexpr int kTileRows = static_cast<int>(kPackedTileRows);
constexpr int kTileBytes = static_cast<int>(kPackedTileBytes);
constexpr int kTiles = kPackedGemvPairs;  // of a part of a strip

// 1.5 * 2^23 plus an integer below 2^22 is a float whose bits are kMagicBits plus the integer.
constexpr float kMagic = 12582912.f;
constexpr int kMagicBits = 0x4b400000;
constexpr float kDigitBase = 256.f;  // of x (packed_gemv_x.cuh)

struct Params {
  LinearArgs args;
  PackedGemvPlan plan;
};

__device__ __forceinline__ uint32_t GroupOfChunk(const PackedGroups& groups, uint32_t chunk) {
  return groups.chunks_a_group == 1 ? chunk : __umulhi(chunk, groups.magic);
}

// What a block computes: tiles of outputs [first, last).
struct BlockWork {
  __device__ explicit BlockWork(const PackedGemvPlan& plan) {
    const int block = static_cast<int>(blockIdx.x);
    first = block * plan.block_tiles + min(block, plan.larger_blocks);
    last = first + plan.block_tiles + (block < plan.larger_blocks ? 1 : 0);
  }
  int first, last;
};

__device__ __forceinline__ int LaneIndex() { return static_cast<int>(threadIdx.x) % kWarp; }
// The shuffle tells the compiler that a warp's lanes agree.
__device__ __forceinline__ int WarpIndex() {
  return __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kWarp, 0);
}

// Rows of x.
template <PackedGemvForm kForm>
__device__ __forceinline__ int RowsOf(const Params& p) {
  return PackedGemvWide(kForm) ? static_cast<int>(p.args.t) : 1;
}

// A strip's tiles of part `part`: the first one of w, and how many.
struct PartTiles {
  __device__ __forceinline__ PartTiles(const LinearArgs& a, int first, int tiles, int part) {
    from = first + part * (a.gated ? static_cast<int>(a.n) / kTileRows : kTiles);
    count = a.gated ? tiles : min(tiles - part * kTiles, kTiles);
  }
  int from, count;  // the count may be below 0
};

}  // namespace packed_gemv
}  // namespace tessera
