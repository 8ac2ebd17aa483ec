// What a block of the packed product computes, and in which order.
#pragma once

#include <cstdint>

#include "kernels/device/barrier.cuh"

namespace tessera {

struct PackedGemmParams {
  const char* values;
  const char* scales;
  const char* zeros;              // or null
  const uint16_t* group_of_step;  // or null
  int64_t rows;                   // of W
  int64_t zero_stride;
  int slots;              // groups that a stage may hold: 1, 2, 4 or 8
  uint32_t group_factor;  // with one slot: group = high half of 2 * stage * group_factor
  int last_group, last_step;

  const void* bias;
  const void* residual;
  void* y;
  bool f32, gated, weights_once;
  int64_t t, n;  // outputs

  int band;  // tiles of tokens that are taken together
  int row_tiles, token_tiles, stages, shared_tiles, shared_blocks;  // products fit in 32 bits
  float* partial;                                                   // [shared_blocks] tiles
  int flag_slot;  // whose flags say that partial sums are there
};

// A run of stages of one tile. It owns the tile's outputs when it starts at stage 0.
struct PackedItem {
  int tile, row_tile, token_tile, first, end;
};

// The items of this block: its run of shared tiles, then whole tiles. Blocks count down from the
// grid's last: sums wait for blocks of a lower blockIdx only, which start no later.
class PackedWalk {
 public:
  static __device__ __forceinline__ int Block() {
    return static_cast<int>(gridDim.x - 1 - blockIdx.x);
  }

  // Where the run of shared block b starts, in stages from tile 0 on; the end for later ones.
  static __device__ __forceinline__ int RunStart(const PackedGemmParams& p, int b) {
    const int units = p.shared_tiles * p.stages;
    if (b >= p.shared_blocks) return units;
    return static_cast<int>(static_cast<uint32_t>(units) * static_cast<uint32_t>(b) /
                            static_cast<uint32_t>(p.shared_blocks));
  }

  // Item `turn`; false behind the last.
  static __device__ __forceinline__ bool Item(const PackedGemmParams& p, int turn,
                                              PackedItem& item) {
    const int start = RunStart(p, Block()), end = RunStart(p, Block() + 1);
    const int first_tile = start / p.stages;
    const int shared = start == end ? 0 : (end - 1) / p.stages - first_tile + 1;
    if (turn < shared) {
      item.tile = first_tile + turn;
      const int tile_start = item.tile * p.stages;
      item.first = max(start - tile_start, 0);
      item.end = min(end - tile_start, p.stages);
    } else {
      item.tile = p.shared_tiles + Block() + (turn - shared) * static_cast<int>(gridDim.x);
      if (item.tile >= p.row_tiles * p.token_tiles) return false;
      item.first = 0;
      item.end = p.stages;
    }
    Place(p, item);
    return true;
  }

 private:
  // Tokens run fastest, in bands, so that blocks at work together share rows of W and an x that L2
  // holds.
  static __device__ __forceinline__ void Place(const PackedGemmParams& p, PackedItem& item) {
    const auto band_width = static_cast<uint32_t>(p.band);
    const auto tile = static_cast<uint32_t>(item.tile);
    const auto band_tiles = static_cast<uint32_t>(p.row_tiles) * band_width;
    const uint32_t band = tile / band_tiles, in_band = tile % band_tiles;
    const uint32_t width =
        min(band_width, static_cast<uint32_t>(p.token_tiles) - band * band_width);
    item.row_tile = static_cast<int>(in_band / width);
    item.token_tile = static_cast<int>(band * band_width + in_band % width);
  }
};

}  // namespace tessera
