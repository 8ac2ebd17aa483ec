#include "kernels/attention/paged_attention_config.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr int64_t kAlign = 256;

// One sequence: a chunk for each block, none with two.
// Several: two chunks for each block if the contexts were equal, but none longer than 1024 tokens,
// which bounds how uneven blocks can be when they are not (at e = 128 a block reads that in 15 us).
constexpr int64_t kChunksPerBlock = 2;
constexpr int32_t kMinUnitsAlone = 4, kMinUnits = 8, kMaxUnits = 64;
constexpr int32_t kMaxChunks = 64;  // of one head; bounds the workspace

int64_t Aligned(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

CutRule ChooseCut(int64_t blocks, int64_t sequences, int64_t heads) {
  CutRule rule;
  if (sequences <= 1) {
    rule.max_chunks = static_cast<int32_t>(std::max<int64_t>(1, blocks / heads));
    rule.of = static_cast<uint32_t>(rule.max_chunks);
    rule.min_units = kMinUnitsAlone;
    return rule;
  }
  if (sequences * heads < kChunksPerBlock * blocks) {  // else a chunk is all of a context
    rule.share = static_cast<uint32_t>(sequences * heads);
    rule.of = static_cast<uint32_t>(kChunksPerBlock * blocks);
  }
  rule.min_units = kMinUnits;
  rule.max_units = kMaxUnits;
  rule.max_chunks = kMaxChunks;
  return rule;
}

}  // namespace

DecodeLayout ChooseDecodeLayout(int sm_count, int64_t sequences, int64_t h, int64_t g, int64_t e) {
  DecodeLayout layout;
  const int64_t group = g > 0 ? h / g : 0;
  layout.blocks = std::max(sm_count, 1);
  if (group == 0 || sequences == 0) return layout;
  layout.parts = (group + DecodeLayout::kMaxRows - 1) / DecodeLayout::kMaxRows;
  layout.rows = (group + layout.parts - 1) / layout.parts;
  layout.parts = (group + layout.rows - 1) / layout.rows;
  layout.heads = g * layout.parts;
  layout.region_per_head = sequences * layout.heads <= layout.blocks;
  layout.regions = layout.region_per_head ? sequences * layout.heads : layout.blocks;
  layout.cut = ChooseCut(layout.blocks, sequences, layout.heads);
  const int64_t slots = layout.regions * layout.cut.max_chunks;
  layout.partial_bytes = Aligned(slots * layout.rows * e * 4);
  layout.state_bytes = Aligned(slots * layout.rows * 8);
  layout.record_bytes = Aligned(layout.regions * 16);
  return layout;
}

int64_t PagedAttentionWorkspaceBytes(Device device, int sm_count, int64_t /*max_t*/,
                                     int64_t max_sequences, int64_t h, int64_t g, int64_t e) {
  if (device == Device::kCpu) return 0;
  int64_t bytes = 0;
  for (int64_t sequences : {std::min<int64_t>(max_sequences, 1), max_sequences}) {
    const DecodeLayout layout = ChooseDecodeLayout(sm_count, sequences, h, g, e);
    bytes = std::max(bytes, layout.partial_bytes + layout.state_bytes + layout.record_bytes);
  }
  return bytes;
}

}  // namespace tessera
