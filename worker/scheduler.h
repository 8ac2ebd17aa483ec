// Continuous batching for one model: which sequences run in the next step, and with which KV
// blocks.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include <absl/status/status.h>
#include <absl/types/span.h>

#include "planner/memory_layout.h"
#include "worker/block_pool.h"
#include "worker/sequence.h"
#include "worker/step_plan.h"

namespace tessera {

struct SchedulerOptions {
  EngineLimits limits;
  int64_t kv_blocks = 0;
  int64_t lanes = 1;
  std::vector<int32_t> graph_rows;  // ascending sizes of captured decode steps; empty: no graphs
  std::function<int64_t()> now_unix_us;
};

// What a step brought back, arrays as the step's plan orders them.
struct StepResult {
  int64_t number = 0;
  absl::Span<const int32_t> ids;            // [sequences]; -1 where nothing was sampled
  absl::Span<const float> logprobs;         // [sequences]; empty: not computed
  absl::Span<const int32_t> top_ids;        // [sequences, kMaxTopLogprobs]
  absl::Span<const float> top_logprobs;     // the same shape
  absl::Span<const float> prompt_logprobs;  // [targets]
};

// Rules: decoding sequences come first in every step, then prefill in chunks of what is left of
// max_step_tokens. An older sequence that needs a block takes it from the youngest running one,
// which starts over from its known tokens (preemption by recompute). A step may be issued before
// the ids of the one before are known; at most two steps of a lane are under way. Not thread-safe:
// the engine thread owns it.
class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);

  // kResourceExhausted: the sequence could never hold its tokens in the whole cache.
  // kAlreadyExists: the id is in use.
  absl::Status Add(SequenceRequest request);

  // Ends a sequence at this step boundary: its blocks are free at once. False: no such sequence.
  bool Cancel(uint64_t id, std::vector<SequenceUpdate>& updates);

  // The next step, or nothing when no lane can go on before results arrive.
  std::optional<StepDraft> NextStep();

  // Takes in the oldest issued step's results; steps come back in the order they were issued.
  void Finish(const StepResult& result, std::vector<SequenceUpdate>& updates);

  bool idle() const { return sequences_.empty() && in_flight_.empty(); }
  int64_t steps_in_flight() const { return static_cast<int64_t>(in_flight_.size()); }
  int64_t running() const;
  int64_t waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t free_blocks() const { return pool_.available(); }

 private:
  struct IssuedRow {
    SequencePtr sequence;
    bool sample = false;
    int64_t targets = 0;
  };
  struct IssuedStep {
    int64_t number = 0;
    int32_t lane = 0;
    std::vector<IssuedRow> rows;  // by sequence of the plan
  };
  // One step under construction: its plan, and what Finish() will need.
  struct Building {
    StepDraft draft;
    IssuedStep issued;
    int64_t budget = 0;  // rows left
  };

  void AddDecoding(Building& step);
  void AddPrefill(Building& step);
  void AdmitWaiting(Building& step);
  void AddRows(const SequencePtr& sequence, int64_t rows, Building& step);
  // Blocks for positions [0, computed + rows) of the sequence, preempting younger ones that the
  // step does not hold.
  bool Reserve(Sequence& sequence, int64_t rows, Building& step);
  // The most rows, up to `rows`, that Reserve() managed; 0 when none.
  int64_t ReserveUpTo(Sequence& sequence, int64_t rows, Building& step);
  bool PreemptYoungest(uint64_t older_than, int64_t step_number);
  void GiveBack(Sequence& sequence);
  void TakeSample(const StepResult& result, size_t row, const SequencePtr& sequence,
                  SequenceUpdate& update);
  void End(const SequencePtr& sequence);
  int64_t LaneLoad(int32_t lane) const;
  int64_t InFlight(int32_t lane) const;

  SchedulerOptions options_;
  BlockPool pool_;
  std::vector<int32_t> free_slots_;                      // a stack
  std::unordered_map<uint64_t, SequencePtr> sequences_;  // all that have not ended
  std::deque<SequencePtr> waiting_;                      // by age
  std::vector<SequencePtr> running_;                     // by age
  std::deque<IssuedStep> in_flight_;
  std::vector<int64_t> last_step_of_lane_;  // -1: none yet
  int64_t next_number_ = 0;
  uint64_t next_age_ = 0;
  int32_t next_lane_ = 0;
};

}  // namespace tessera
