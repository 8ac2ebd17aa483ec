#include "kernels/comm/peer_region_config.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(PeerRegion, BytesOfOneRowByHand) {
  // 8192 bf16 are 16384 bytes, 8 cells of 2048. A cell has 2 halves * 4 ranks * 2048 + 4 bytes.
  EXPECT_EQ(PeerRegionBytes(4, 1, 8192, DType::kBf16), (8 * (2 * 4 * 2048 + 4) + 255) / 256 * 256);
}

TEST(PeerRegion, NoPeersNeedNoMemory) {
  EXPECT_EQ(PeerRegionBytes(1, 16, 8192, DType::kBf16), 0);
  EXPECT_EQ(PeerRegionBytes(kMaxPeerRanks + 1, 16, 8192, DType::kBf16), 0);
  EXPECT_EQ(PeerRegionBytes(2, 0, 8192, DType::kBf16), 0);
}

TEST(PeerRegion, HoldsTheRowsItWasSizedFor) {
  for (int ranks = 2; ranks <= kMaxPeerRanks; ++ranks)
    for (const int64_t rows : {1, 3, 16})
      for (const int64_t d : {8, 896, 1032, 3584, 8192}) {
        const int64_t bytes = PeerRegionBytes(ranks, rows, d, DType::kF16);
        const int64_t cells = PeerRegionCells(ranks, bytes);
        EXPECT_GE(cells, rows * PeerCells(2 * d));
        EXPECT_LE(PeerCountersOffset(ranks, cells) + 4 * cells, bytes);
      }
}

TEST(OneShotShape, CoversEveryRowThatFits) {
  for (const int capability : {80, 90})
    for (int64_t row_bytes = 16; row_bytes <= 64 * kPeerCellBytes; row_bytes += 496) {
      const OneShotShape s = ChooseOneShotShape(row_bytes, capability);
      if (capability == 80 && row_bytes > 8 * kPeerCellBytes) {
        EXPECT_EQ(s.blocks_per_row, 0);  // one block of 1024 threads is all there is
        continue;
      }
      const int64_t cells = PeerCells(row_bytes);
      EXPECT_GE(s.cells_per_block * s.blocks_per_row, cells) << row_bytes;
      EXPECT_LT(s.cells_per_block * (s.blocks_per_row - 1), cells) << row_bytes;
      EXPECT_LE(s.cells_per_block, 8);
      EXPECT_LE(s.blocks_per_row, capability == 80 ? 1 : 8);
    }
}

TEST(OneShotShape, RowsBeyondAClusterDoNotFit) {
  EXPECT_EQ(ChooseOneShotShape(64 * kPeerCellBytes + 1, 90).blocks_per_row, 0);
}

}  // namespace
}  // namespace tessera
