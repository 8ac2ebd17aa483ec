// A step as data: what every rank of a group executes. A plan is one flat run of bytes, the same in
// the leader's memory, in the channel to the other ranks and on the device, where the ops read its
// arrays in place.
#pragma once

#include <cstdint>
#include <vector>

#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include "kernels/sampling/sample.h"
#include "planner/step_capacity.h"

namespace tessera {

enum class PlanKind : int32_t { kStep = 1, kStop = 2 };

// First bytes of every plan. Counts are of array elements as laid out, padding included.
struct PlanHeader {
  int64_t number = 0;  // 0, 1, 2, ... in the order of execution
  PlanKind kind = PlanKind::kStep;
  int32_t lane = 0;
  int32_t tokens = 0;  // rows; in graph steps the bucket
  int32_t sequences = 0;
  int32_t decode_sequences = 0;  // the first ones, with one row each
  int32_t block_patches = 0;
  int32_t slot_resets = 0;
  int32_t targets = 0;    // rows whose prompt log-probability is wanted
  int32_t max_query = 0;  // longest of the other sequences' rows
  int32_t max_context = 0;
  int32_t graph = 0;  // 1: replay the captured graph of `tokens` rows
  int32_t all_greedy = 0;
  int32_t any_logprobs = 0;
  int32_t any_penalties = 0;
  int32_t samples = 0;  // 1: at least one row is sampled
  int32_t padding[3] = {};
};

// A slot given to another sequence: its sampling, and its seen-token counts cleared.
struct SlotReset {
  int32_t slot = 0;
  int32_t padding[3] = {};
  SamplingParams params;
};

// Where the arrays lie in a plan of given counts: byte offsets from its first byte.
struct PlanOffsets {
  int64_t token_source =
      0;  // int32 [tokens]: id, or -1 - row of the lane's last sample (prepare_step.h)
  int64_t token_seq = 0;      // int32 [tokens]: index into the sequences
  int64_t positions = 0;      // int32 [tokens]
  int64_t seq_slot = 0;       // int32 [sequences]; -1: padding
  int64_t q_start = 0;        // int32 [sequences + 1]
  int64_t context = 0;        // int32 [sequences]
  int64_t sample_row = 0;     // int32 [sequences]: row that is sampled, or -1
  int64_t draw_index = 0;     // int32 [sequences]: output token number, or -1
  int64_t block_patches = 0;  // int32 [block_patches, 3]: slot, index, block
  int64_t target_row = 0;     // int32 [targets]: row whose logits tell of ...
  int64_t target_id = 0;      // int32 [targets]: ... this prompt token
  int64_t slot_resets = 0;    // SlotReset [slot_resets]
  int64_t bytes = 0;          // of the whole plan
};

PlanOffsets OffsetsOf(const PlanHeader& header);

// A plan in memory owned by someone else.
class PlanView {
 public:
  // kDataLoss: shorter than its own counts say, or counts out of `capacity`.
  static absl::StatusOr<PlanView> Parse(absl::Span<const uint8_t> bytes,
                                        const PlanCapacity& capacity);

  const PlanHeader& header() const { return *reinterpret_cast<const PlanHeader*>(bytes_.data()); }
  const PlanOffsets& offsets() const { return offsets_; }
  absl::Span<const uint8_t> bytes() const { return bytes_; }
  absl::Span<const SlotReset> slot_resets() const;
  absl::Span<const int32_t> array(int64_t offset, int64_t count) const {
    return {reinterpret_cast<const int32_t*>(bytes_.data() + offset), static_cast<size_t>(count)};
  }

 private:
  absl::Span<const uint8_t> bytes_;  // 16-byte aligned
  PlanOffsets offsets_;
};

// One sequence's part of a step, as the scheduler gives it.
struct PlannedSequence {
  int32_t slot = 0;
  std::vector<int32_t> tokens;  // ids, or one -1 - row of the lane's last sample
  int32_t first_position = 0;
  bool sample = false;           // the last row's logits give a token
  int32_t draw_index = 0;        // which output token that is
  std::vector<int32_t> targets;  // per row the next prompt token, or -1; empty: none wanted
};

struct StepDraft {
  int64_t number = 0;
  int32_t lane = 0;
  std::vector<PlannedSequence> sequences;  // single-row ones first
  std::vector<int32_t> block_patches;      // triples
  std::vector<SlotReset> slot_resets;
  bool all_greedy = true, any_logprobs = false, any_penalties = false;
  int32_t graph_rows = 0;   // bucket to pad to; 0: no graph
  int32_t max_context = 0;  // bound for the attention grid; 0: the largest of the sequences
};

// The bytes of a draft. `buffer` is reused storage.
void EncodePlan(const StepDraft& draft, std::vector<uint8_t>& buffer);
// The plan that ends the followers' loop.
void EncodeStop(int64_t number, std::vector<uint8_t>& buffer);

}  // namespace tessera
