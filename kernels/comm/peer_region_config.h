// The device memory that peers write to in one-shot collectives: sizes and launch shapes, without
// CUDA.
//
// A region is a row of cells, each a place for kPeerCellPackets packets of 16 bytes from every
// rank, twice:
//   packets  [2, ranks, cells * kPeerCellPackets] of 16 bytes, all bits set where nothing has come
//   counters [cells] of uint32: uses of each cell so far, which of the two halves is next
// A cell alternates between its halves, on all ranks alike, because all ranks run the same
// operations. A sender can be one use ahead of a receiver, never two, so two halves suffice.
#pragma once

#include <cstdint>

#include "common/dtype.h"

namespace tessera {

inline constexpr int kMaxPeerRanks = 8;  // GPUs of one host
inline constexpr int64_t kPeerPacketBytes = 16;
inline constexpr int64_t kPeerCellPackets = 128;
inline constexpr int64_t kPeerCellBytes = kPeerPacketBytes * kPeerCellPackets;

// Cells that `bytes` of payload take.
constexpr int64_t PeerCells(int64_t bytes) { return (bytes + kPeerCellBytes - 1) / kPeerCellBytes; }

// Bytes of a rank's region for reductions of up to max_rows rows of d elements among `ranks` ranks,
// a multiple of 256; 0 for a group without peers or with more than kMaxPeerRanks ranks.
int64_t PeerRegionBytes(int ranks, int64_t max_rows, int64_t d, DType dtype);

// The cells that a region of `bytes` holds.
int64_t PeerRegionCells(int ranks, int64_t bytes);

// Offset of the counters in a region of `cells`.
int64_t PeerCountersOffset(int ranks, int64_t cells);

struct OneShotShape {
  int cells_per_block = 0;  // a block has kPeerCellPackets threads for each of its cells
  int blocks_per_row = 0;   // a cluster of so many blocks reduces a row's sum of squares; 0: no fit
};

// How a row of `row_bytes` is reduced and normalised on a GPU of `compute_capability`. Several
// small blocks a row share the work of sending to the peers; GPUs before 9.0 have no clusters, so
// one block does it all there.
OneShotShape ChooseOneShotShape(int64_t row_bytes, int compute_capability);

}  // namespace tessera
