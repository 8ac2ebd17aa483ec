// Scratch and tile choices of paged attention. Pure host functions, no CUDA.
#pragma once

#include <cstdint>

#include "kernels/runtime/stream.h"

namespace tessera {

// Scratch bytes for steps of up to `max_sequences` sequences and `max_t` rows: what a decode step
// keeps of a context that it splits over blocks. Its contents need not survive or be set. 0 on the
// CPU.
int64_t PagedAttentionWorkspaceBytes(Device device, int sm_count, int64_t max_t,
                                     int64_t max_sequences, int64_t h, int64_t g, int64_t e);

// How contexts are cut into chunks. A chunk is summed from scratch and chunks are added in order,
// whichever block computes them; the cut depends on a sequence's own context and on host sizes
// only. So a sequence's result does not depend on what the sequences beside it hold.
struct CutRule {
  uint32_t share = 1, of = 1;  // a chunk is context * share / of, between the bounds
  int32_t min_units = 1, max_units = INT32_MAX;
  int32_t max_chunks = 1;  // wins over max_units
};

// How a decode kernel is laid out. The query heads of a kv head are split evenly into `parts` of
// at most kMaxRows, which one block multiplies at once; a (kv head, part) is a "head" below.
struct DecodeLayout {
  static constexpr int64_t kMaxRows = 16;        // two tiles of the tensor core's N
  static constexpr int64_t kBlocksPerSm = 2;     // persistent blocks
  static constexpr int64_t kFewBlocksPerSm = 3;  // blocks of one chunk each
  static constexpr int64_t kMaxFewBlocks = 512;
  int64_t blocks = 0;  // thread blocks
  int64_t parts = 0;   // of a kv head's group
  int64_t rows = 0;    // query heads in a part; the last may have fewer
  int64_t heads = 0;   // g * parts
  // Places for a split context's chunks: one for each (sequence, head) if those are no more than
  // the blocks, else one for each block, since at most one context is split where a block's work
  // ends.
  int64_t regions = 0;
  bool region_per_head = true;
  CutRule cut;
  int64_t partial_bytes = 0, state_bytes = 0, folded_bytes = 0;  // of the workspace, in this order
};
// Persistent blocks over any sequences (decode_ranges.cuh).
DecodeLayout ChooseDecodeLayout(int sm_count, int64_t sequences, int64_t h, int64_t g, int64_t e);
// Few sequences: a block for each chunk, all resident at once (decode_few.cuh); no workspace.
DecodeLayout ChooseFewLayout(int sm_count, int64_t sequences, int64_t h, int64_t g);
// Whether a step is for ChooseFewLayout(): latency then counts more than equal work for all blocks.
bool IsFewSequences(const DecodeLayout& few_layout, int64_t sequences);

// How one head of a sequence is cut.
struct ContextCut {
  static constexpr int32_t kUnitTokens = 16;  // what a warp takes at a time
  // What a chunk costs beside its units, in units: adding up the warps of a block.
  static constexpr int32_t kChunkOverheadUnits = 4;

  int32_t units = 0;        // ceil(context / kUnitTokens)
  int32_t chunk_units = 1;  // in each chunk but the last
  int32_t chunks = 0;

  // Work from the head's start to a chunk's start, and of the whole, the last chunk counted as long
  // as the others: then chunks of one size fall into ranges of one size.
  constexpr uint32_t Offset(int32_t chunk) const {
    return static_cast<uint32_t>(chunk * (chunk_units + kChunkOverheadUnits));
  }
  constexpr uint32_t Cost() const { return Offset(chunks); }
};
constexpr ContextCut CutContext(int32_t context, const CutRule& rule) {
  ContextCut cut;
  if (context <= 0) return cut;
  cut.units = (context - 1) / ContextCut::kUnitTokens + 1;
  // 32-bit, since divisions are slow on a GPU and this is on a kernel's way to its first load:
  // a context of 2^24 tokens has 2^20 units, and share <= of < 2^12.
  const int32_t even =
      static_cast<int32_t>((static_cast<uint32_t>(cut.units) * rule.share - 1) / rule.of + 1);
  const int32_t least = (cut.units - 1) / rule.max_chunks + 1;
  cut.chunk_units = even < rule.max_units ? even : rule.max_units;
  if (cut.chunk_units < rule.min_units) cut.chunk_units = rule.min_units;
  if (cut.chunk_units < least) cut.chunk_units = least;
  const int32_t chunks = (cut.units - 1) / cut.chunk_units + 1;
  cut.chunk_units = (cut.units - 1) / chunks + 1;  // evens them out
  cut.chunks = (cut.units - 1) / cut.chunk_units + 1;
  return cut;
}

}  // namespace tessera
