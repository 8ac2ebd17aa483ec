#include "kernels/attention/paged_attention_config.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr int64_t kAlign = 256;

// Two chunks for each block if the contexts were equal, but none longer than 512 tokens (e = 128),
// which bounds how uneven blocks can be when they are not.
constexpr int64_t kChunksPerBlock = 2;
constexpr int32_t kMinUnits = 16, kFewMinUnits = 8;
constexpr int64_t kFewestChunks = 8;
constexpr int64_t kMaxUnitsTimesHead = 32 * 128;  // more tokens to a chunk where they are smaller
// Of one head. Where that would take too much workspace, fewer: kSlotsPerSm bounds it.
constexpr int64_t kMaxChunks = 64, kSlotsPerSm = 64;

int64_t Aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Chunks of partial sums that fit into the workspace of a layout with so many regions.
int64_t Slots(int64_t sm_count, int64_t regions) {
  return std::min(regions * kMaxChunks, std::max(regions, sm_count * kSlotsPerSm));
}

DecodeLayout SplitHeads(int64_t h, int64_t g) {
  DecodeLayout layout;
  const int64_t group = g > 0 ? h / g : 0;
  if (group == 0) return layout;
  layout.parts = (group + DecodeLayout::kMaxRows - 1) / DecodeLayout::kMaxRows;
  layout.rows = (group + layout.parts - 1) / layout.parts;
  layout.parts = (group + layout.rows - 1) / layout.rows;
  layout.heads = g * layout.parts;
  return layout;
}

int64_t MostRegions(int64_t sm_count, int64_t sequences, const DecodeLayout& of) {
  return std::min(sequences * of.heads, sm_count * DecodeLayout::kBlocksPerSm);
}

struct ScratchBytes {
  int64_t partials, states, folded;
};
ScratchBytes ScratchOf(int64_t slots, int64_t regions, int64_t rows, int64_t e) {
  return {Aligned(slots * rows * e * 4), Aligned(slots * rows * 8), Aligned(regions * 4)};
}

}  // namespace

DecodeLayout ChooseDecodeLayout(int sm_count, int64_t sequences, int64_t h, int64_t g, int64_t e) {
  const int64_t sms = std::max(sm_count, 1);
  DecodeLayout layout = SplitHeads(h, g);
  layout.blocks = sms * DecodeLayout::kBlocksPerSm;
  if (layout.heads == 0 || sequences == 0) return layout;
  const int64_t pairs = sequences * layout.heads;
  layout.region_per_head = pairs <= layout.blocks;
  layout.regions = MostRegions(sms, sequences, layout);
  if (pairs < kChunksPerBlock * layout.blocks) {  // else a chunk is all of a context
    layout.cut.share = static_cast<uint32_t>(pairs);
    layout.cut.of = static_cast<uint32_t>(kChunksPerBlock * layout.blocks);
  }
  layout.cut.min_units = kMinUnits;
  layout.cut.max_units = static_cast<int32_t>(kMaxUnitsTimesHead / std::max<int64_t>(e, 1));
  layout.cut.max_chunks = static_cast<int32_t>(Slots(sms, layout.regions) / layout.regions);
  const ScratchBytes scratch =
      ScratchOf(layout.regions * layout.cut.max_chunks, layout.regions, layout.rows, e);
  layout.partial_bytes = scratch.partials;
  layout.state_bytes = scratch.states;
  layout.folded_bytes = scratch.folded;
  return layout;
}

DecodeLayout ChooseFewLayout(int sm_count, int64_t sequences, int64_t h, int64_t g) {
  DecodeLayout layout = SplitHeads(h, g);
  if (layout.heads == 0 || sequences == 0) return layout;
  const int64_t most =
      std::min(std::max(sm_count, 1) * DecodeLayout::kFewBlocksPerSm, DecodeLayout::kMaxFewBlocks);
  const int64_t pairs = sequences * layout.heads;
  layout.cut.max_chunks = static_cast<int32_t>(std::max<int64_t>(1, most / pairs));
  layout.cut.of = static_cast<uint32_t>(layout.cut.max_chunks);
  layout.cut.min_units = kFewMinUnits;
  layout.blocks = pairs * layout.cut.max_chunks;
  return layout;
}

bool IsFewSequences(const DecodeLayout& few_layout, int64_t sequences) {
  return sequences == 1 || few_layout.cut.max_chunks >= kFewestChunks;
}

int64_t PagedAttentionWorkspaceBytes(Device device, int sm_count, int64_t /*max_t*/,
                                     int64_t max_sequences, int64_t h, int64_t g, int64_t e) {
  if (device == Device::kCpu) return 0;
  const DecodeLayout heads = SplitHeads(h, g);
  const int64_t sms = std::max(sm_count, 1);
  // Grows with the sequences, so that it covers every smaller step.
  const int64_t regions = MostRegions(sms, max_sequences, heads);
  const ScratchBytes scratch = ScratchOf(Slots(sms, regions), regions, heads.rows, e);
  return scratch.partials + scratch.states + scratch.folded;
}

}  // namespace tessera
