#include "worker/step_plan.h"

#include <algorithm>
#include <cstring>

#include <absl/strings/str_cat.h>

#include "common/align.h"
#include "common/check.h"
#include "kernels/step/prepare_step.h"

namespace tessera {
namespace {

constexpr int64_t kArrayAlignment = 16;
static_assert(sizeof(PlanHeader) % kArrayAlignment == 0);
static_assert(sizeof(SlotReset) % kArrayAlignment == 0);

int64_t RowCount(const PlannedSequence& s) { return static_cast<int64_t>(s.tokens.size()); }

PlanHeader HeaderOf(const StepDraft& draft) {
  PlanHeader h;
  h.number = draft.number;
  h.lane = draft.lane;
  h.sequences = static_cast<int32_t>(draft.sequences.size());
  h.block_patches = static_cast<int32_t>(draft.block_patches.size() / 3);
  h.slot_resets = static_cast<int32_t>(draft.slot_resets.size());
  h.all_greedy = draft.all_greedy ? 1 : 0;
  h.any_logprobs = draft.any_logprobs ? 1 : 0;
  h.any_penalties = draft.any_penalties ? 1 : 0;
  bool leading_singles = true;
  for (const PlannedSequence& s : draft.sequences) {
    const auto rows = static_cast<int32_t>(RowCount(s));
    h.tokens += rows;
    leading_singles = leading_singles && rows == 1;
    if (leading_singles) {
      ++h.decode_sequences;
    } else {
      h.max_query = std::max(h.max_query, rows);
    }
    h.max_context = std::max(h.max_context, s.first_position + rows);
    if (s.sample) h.samples = 1;
    h.targets += static_cast<int32_t>(
        std::count_if(s.targets.begin(), s.targets.end(), [](int32_t id) { return id >= 0; }));
  }
  h.max_context = std::max(h.max_context, draft.max_context);
  if (draft.graph_rows > 0) {
    TESSERA_CHECK(h.max_query == 0 && h.tokens <= draft.graph_rows, "tokens ", h.tokens,
                  " rows of the graph ", draft.graph_rows);
    h.graph = 1;
    h.tokens = h.sequences = h.decode_sequences = draft.graph_rows;
  }
  return h;
}

int32_t* ArrayAt(std::vector<uint8_t>& buffer, int64_t offset) {
  return reinterpret_cast<int32_t*>(buffer.data() + offset);
}

// Writes the padding that completes the bucket of a graph step.
void WritePadding(const PlanHeader& h, const PlanOffsets& o, int64_t rows, int64_t sequences,
                  std::vector<uint8_t>& buffer) {
  for (int64_t i = rows; i < h.tokens; ++i) {
    ArrayAt(buffer, o.token_source)[i] = PrepareStepArgs::kPaddingToken;
    ArrayAt(buffer, o.token_seq)[i] = static_cast<int32_t>(i);
  }
  for (int64_t i = sequences; i < h.sequences; ++i) {
    ArrayAt(buffer, o.seq_slot)[i] = -1;
    ArrayAt(buffer, o.q_start)[i + 1] = static_cast<int32_t>(i) + 1;
    ArrayAt(buffer, o.sample_row)[i] = -1;
    ArrayAt(buffer, o.draw_index)[i] = -1;
  }
}

}  // namespace

PlanOffsets OffsetsOf(const PlanHeader& h) {
  PlanOffsets o;
  int64_t at = sizeof(PlanHeader);
  const auto place = [&](int64_t bytes) {
    const int64_t here = at;
    at = AlignUp(at + bytes, kArrayAlignment);
    return here;
  };
  const auto words = [&](int64_t count) { return place(count * int64_t{sizeof(int32_t)}); };
  o.token_source = words(h.tokens);
  o.token_seq = words(h.tokens);
  o.positions = words(h.tokens);
  o.seq_slot = words(h.sequences);
  o.q_start = words(h.sequences + 1);
  o.context = words(h.sequences);
  o.sample_row = words(h.sequences);
  o.draw_index = words(h.sequences);
  o.block_patches = words(int64_t{h.block_patches} * 3);
  o.target_row = words(h.targets);
  o.target_id = words(h.targets);
  o.slot_resets = place(h.slot_resets * int64_t{sizeof(SlotReset)});
  o.bytes = at;
  return o;
}

absl::StatusOr<PlanView> PlanView::Parse(absl::Span<const uint8_t> bytes,
                                         const PlanCapacity& capacity) {
  PlanView view;
  view.bytes_ = bytes;
  if (bytes.size() < sizeof(PlanHeader))
    return absl::DataLossError(
        absl::StrCat("step plan: ", bytes.size(), " bytes, header needs ", sizeof(PlanHeader)));
  const PlanHeader& h = view.header();
  const auto within = [](int32_t count, int64_t limit) { return count >= 0 && count <= limit; };
  if (!within(h.tokens, capacity.tokens) || !within(h.sequences, capacity.sequences) ||
      !within(h.decode_sequences, h.sequences) ||
      !within(h.block_patches, capacity.block_patches) ||
      !within(h.slot_resets, capacity.slot_resets) || !within(h.targets, capacity.targets)) {
    return absl::DataLossError(absl::StrCat(
        "step plan ", h.number, ": tokens ", h.tokens, ", sequences ", h.sequences, ", patches ",
        h.block_patches, ", resets ", h.slot_resets, ", targets ", h.targets, ": out of bounds"));
  }
  view.offsets_ = OffsetsOf(h);
  if (view.offsets_.bytes != static_cast<int64_t>(bytes.size())) {
    return absl::DataLossError(absl::StrCat("step plan ", h.number, ": ", bytes.size(),
                                            " bytes, its counts need ", view.offsets_.bytes));
  }
  return view;
}

absl::Span<const SlotReset> PlanView::slot_resets() const {
  return {reinterpret_cast<const SlotReset*>(bytes_.data() + offsets_.slot_resets),
          static_cast<size_t>(header().slot_resets)};
}

void EncodePlan(const StepDraft& draft, std::vector<uint8_t>& buffer) {
  const PlanHeader header = HeaderOf(draft);
  const PlanOffsets o = OffsetsOf(header);
  buffer.assign(static_cast<size_t>(o.bytes), 0);
  std::memcpy(buffer.data(), &header, sizeof(header));
  int32_t row = 0, index = 0;
  int64_t target = 0;
  for (const PlannedSequence& s : draft.sequences) {
    ArrayAt(buffer, o.seq_slot)[index] = s.slot;
    ArrayAt(buffer, o.q_start)[index] = row;
    for (size_t i = 0; i < s.tokens.size(); ++i, ++row) {
      ArrayAt(buffer, o.token_source)[row] = s.tokens[i];
      ArrayAt(buffer, o.token_seq)[row] = index;
      ArrayAt(buffer, o.positions)[row] = s.first_position + static_cast<int32_t>(i);
      if (i < s.targets.size() && s.targets[i] >= 0) {
        ArrayAt(buffer, o.target_row)[target] = row;
        ArrayAt(buffer, o.target_id)[target++] = s.targets[i];
      }
    }
    ArrayAt(buffer, o.context)[index] = s.first_position + static_cast<int32_t>(RowCount(s));
    ArrayAt(buffer, o.sample_row)[index] = s.sample ? row - 1 : -1;
    ArrayAt(buffer, o.draw_index)[index] = s.sample ? s.draw_index : -1;
    ArrayAt(buffer, o.q_start)[++index] = row;
  }
  WritePadding(header, o, row, index, buffer);
  std::copy(draft.block_patches.begin(), draft.block_patches.end(),
            ArrayAt(buffer, o.block_patches));
  if (!draft.slot_resets.empty()) {
    std::memcpy(buffer.data() + o.slot_resets, draft.slot_resets.data(),
                draft.slot_resets.size() * sizeof(SlotReset));
  }
}

void EncodeStop(int64_t number, std::vector<uint8_t>& buffer) {
  PlanHeader header;
  header.number = number;
  header.kind = PlanKind::kStop;
  buffer.assign(static_cast<size_t>(OffsetsOf(header).bytes), 0);
  std::memcpy(buffer.data(), &header, sizeof(header));
}

}  // namespace tessera
