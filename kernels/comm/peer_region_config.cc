#include "kernels/comm/peer_region_config.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr int64_t kCounterBytes = 4;
constexpr int64_t kAlignment = 256;
constexpr int kMaxCellsPerBlock = 8;  // 1024 threads
constexpr int kMaxClusterBlocks = 8;  // the portable cluster size
constexpr int kPreferredCellsPerBlock = 2;

constexpr int64_t BytesPerCell(int ranks) { return 2 * ranks * kPeerCellBytes + kCounterBytes; }

}  // namespace

int64_t PeerRegionBytes(int ranks, int64_t max_rows, int64_t d, DType dtype) {
  if (ranks < 2 || ranks > kMaxPeerRanks || max_rows <= 0 || d <= 0) return 0;
  const int64_t bytes = max_rows * PeerCells(d * SizeOf(dtype)) * BytesPerCell(ranks);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

int64_t PeerRegionCells(int ranks, int64_t bytes) {
  return ranks < 2 || ranks > kMaxPeerRanks ? 0 : bytes / BytesPerCell(ranks);
}

int64_t PeerCountersOffset(int ranks, int64_t cells) { return 2 * ranks * cells * kPeerCellBytes; }

OneShotShape ChooseOneShotShape(int64_t row_bytes, int compute_capability) {
  const int64_t cells = PeerCells(row_bytes);
  const int max_blocks = compute_capability >= 90 ? kMaxClusterBlocks : 1;
  if (cells <= 0 || cells > int64_t{max_blocks} * kMaxCellsPerBlock) return {};
  const int64_t least = (cells + max_blocks - 1) / max_blocks;
  const int64_t per_block =
      std::min(cells, std::max<int64_t>(least, compute_capability >= 90 ? kPreferredCellsPerBlock
                                                                        : kMaxCellsPerBlock));
  return {.cells_per_block = static_cast<int>(per_block),
          .blocks_per_row = static_cast<int>((cells + per_block - 1) / per_block)};
}

}  // namespace tessera
