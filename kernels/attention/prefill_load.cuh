// The loader warpgroup of prefill_attention_sm90.cu.
#pragma once

#include <cstdint>

#include "kernels/attention/paged_kv.cuh"
#include "kernels/attention/prefill_plan.cuh"

namespace tessera {

// A warp that keeps the ring of keys or of values full: from a tile's last tokens down to its
// first. Each lane looks up and copies one box.
template <int kE>
class KvLoader {
 public:
  __device__ __forceinline__ KvLoader(const PrefillParams& p, const Sm90Params& sm90,
                                      const PrefillShared<kE>& shared, bool keys)
      : p_(p),
        sm90_(sm90),
        map_(keys ? sm90.k : sm90.v),
        tiles_(keys ? shared.Keys(0) : shared.Values(0)),
        full_(keys ? shared.KeysFull(0) : shared.ValuesFull(0)),
        free_(keys ? shared.KeysFree(0) : shared.ValuesFree(0)) {}

  __device__ __forceinline__ void LoadAll() {
    TileWalk<P::kRows> walk;
    for (;;) {
      const PrefillTile tile = walk.Next(p_, sm90_.section_heads);
      if (tile.sequence < 0) return;
      const int tokens = TokensOf<kE>(tile, p_.group);
      int j = (tokens - 1 + kTokens) / kTokens - 1, row = Row(tile, tokens, j);
      for (; j >= 0; --j) {
        const int row_below = Row(tile, tokens, j - 1);
        Load(tokens - j * kTokens, row);
        row = row_below;
      }
    }
  }

 private:
  using P = PrefillPlan<kE>;

  // Row of the map where this lane's box of token tile j starts.
  __device__ __forceinline__ int Row(const PrefillTile& tile, int tokens, int j) const {
    const int token = j * kTokens + Run() * sm90_.box_rows;
    if (j < 0 || Run() * sm90_.box_rows >= kTokens || token >= tokens) return 0;
    return KvRun(p_.kv, tile.slot, tile.kv_head, token) * kKvRunTokens;
  }

  // Only boxes that hold one of the `tokens` are copied.
  __device__ __forceinline__ void Load(int tokens, int row) {
    const int runs = (min(tokens, kTokens) + sm90_.box_rows - 1) / sm90_.box_rows;
    const int panel = Lane() % P::kPanels;
    const uint32_t full = full_ + place_.at * kBarrierStride;
    WaitAt(free_ + place_.at * kBarrierStride, place_.parity ^ 1);
    if (Lane() == 0) ArriveExpecting(full, runs * sm90_.box_rows * kE * 2);
    __syncwarp();
    if (Run() < runs)
      CopyBox(tiles_ + place_.at * P::kTileBytes +
                  (panel * kTokens + Run() * sm90_.box_rows) * kPanelRowBytes,
              map_, panel * kPanelElements, row, full);
    place_.Next();
  }

  static __device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  static __device__ __forceinline__ int Run() { return Lane() / P::kPanels; }

  const PrefillParams& p_;
  const Sm90Params& sm90_;
  const CUtensorMap& map_;
  const uint32_t tiles_, full_, free_;
  RingPlace<P::kStages> place_;
};

// The warps that keep the ring of queries full, with the tiles they are of; a tile of no sequence
// ends it.
template <int kE>
__device__ __forceinline__ void LoadQueries(const PrefillParams& p, const Sm90Params& sm90,
                                            const PrefillShared<kE>& shared) {
  using P = PrefillPlan<kE>;
  constexpr int kPieces = kE / 8, kStep = kQueryLoaderThreads / kPieces;
  const int thread = static_cast<int>(threadIdx.x) - kFirstQueryLoaderWarp * kWarp;
  const int first = thread / kPieces, piece = thread % kPieces;
  TileWalk<P::kRows> walk;
  RingPlace<P::kQueryStages> place;
  for (;; place.Next()) {
    const PrefillTile tile = walk.Next(p, sm90.section_heads);
    WaitAt(shared.QueryFree(place.at), place.parity ^ 1);
    if (thread == 0) {
      shared.Tile(place.at) = tile;
      ArriveAt(shared.QueryFull(place.at));
    }
    if (tile.sequence >= 0) {
      RowWalk<kE, kStep> from(p, tile, tile.first_row + first);
#pragma unroll 2
      for (int row = first; row < P::kRows; row += kStep, from.Next()) {
        const bool valid = tile.first_row + row < tile.rows;
        CopyAsync16(shared.Query(place.at) + PanelBytes<P::kRows>(row, piece),
                    static_cast<const char*>(p.q) + (valid ? from.Bytes() + piece * 16 : 0), valid);
      }
    }
    ArriveAfterCopies(shared.QueryFull(place.at));
    if (tile.sequence < 0) return;
  }
}

}  // namespace tessera
