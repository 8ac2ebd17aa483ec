// Executes step plans on one rank: its slice of the model on its device.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "kernels/ops.h"
#include "kernels/runtime/runtime.h"
#include "layers/decoder.h"
#include "parallel/communicator.h"
#include "planner/memory_layout.h"
#include "worker/arena.h"
#include "worker/result_exchange.h"
#include "worker/scheduler.h"
#include "worker/step_plan.h"
#include "worker/weight_loader.h"

namespace tessera {

// How a rank reaches the others of its model. All outlive the engine.
struct EnginePeers {
  Communicator* tp = nullptr;     // this stage's ranks
  Communicator* group = nullptr;  // all stages' ranks, for hidden states; null with one stage
  Communicator* side = nullptr;   // the same ranks, for results; may be `group` on the CPU
};

struct EngineSpec {
  LayoutInput layout;
  LoadOptions load;  // dtypes are filled in by the engine
  bool leader = false;
  bool graphs = true;  // capture decode steps where the device can
};

// Owned and called by the engine thread.
class Engine {
 public:
  // Loads weights into the arena and builds the model. Collective over the group. Errors as Arena,
  // LoadWeights and the ops give them. `runtime` and `ops` outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineSpec& spec,
                                                        const EnginePeers& peers,
                                                        const Arena& arena, Runtime& runtime,
                                                        const Ops& ops);
  ~Engine();

  // Runs every op at its largest size and captures the graphs: after this nothing is allocated on
  // the device. Collective over the group. Errors as the ops and communicators give them.
  absl::Status Start();

  // Decode steps captured, in rows, ascending; the same on all ranks.
  static std::vector<int32_t> GraphRows(const EngineSpec& spec, Device device);

  // Enqueues a step; every rank of the group executes the same plans in the same order.
  absl::Status Execute(absl::Span<const uint8_t> plan);

  // Leader: blocks until the oldest executed step that was not collected has finished. The spans
  // are valid until StepsInFlight() further steps were executed. kFailedPrecondition: nothing is
  // under way.
  absl::StatusOr<StepResult> Collect();

  // Whether Collect() would return at once.
  absl::StatusOr<bool> Ready();

  // Blocks until the device has finished all steps, and their results have come.
  absl::Status Drain();

 private:
  // Host side of one step under way, reused in turn.
  struct Slot {
    uint8_t* plan = nullptr;     // pinned copy of the plan's bytes
    uint8_t* results = nullptr;  // pinned: ids, logprobs, prompt logprobs
    PlanHeader header;
    std::unique_ptr<Event> done;
  };

  Engine(const EngineSpec& spec, const EnginePeers& peers, const Arena& arena, Runtime& runtime,
         const Ops& ops);
  absl::Status Init();
  absl::Status InitDecoder();
  absl::Status InitSlots();
  absl::Status WarmUp();
  absl::Status CaptureGraphs();

  StepInputs InputsOf(const PlanView& plan) const;
  const int32_t* OnDevice(int64_t offset) const;
  absl::Status Prepare(const PlanView& plan);
  absl::Status ResetSlots(const PlanView& plan);
  absl::Status Forward(const PlanView& plan);
  absl::Status PromptLogprobs(const PlanView& plan);
  absl::Status Sample(const PlanView& plan, const LogitsView& logits);
  absl::Status MoveResults(Slot& slot);
  absl::Status ReceiveUpTo(int64_t number);
  absl::StatusOr<LogitsView> SampleLogits(const PlanView& plan) const;

  EngineSpec spec_;
  EnginePeers peers_;
  const Arena& arena_;
  Runtime& runtime_;
  const Ops& ops_;
  PlanCapacity capacity_;
  ResultBuffers results_;
  std::unique_ptr<ResultExchange> exchange_;
  std::unique_ptr<Decoder> decoder_;
  std::map<int32_t, std::unique_ptr<Graph>> graphs_;
  std::vector<Slot> slots_;
  // CPU ranks block while they receive results, so they put it off until the results are needed.
  std::deque<size_t> unreceived_;
  std::deque<size_t> collectable_;     // leader: slots executed, oldest first
  std::vector<int64_t> last_of_lane_;  // newest step of each lane
  int64_t executed_ = 0;
  std::unique_ptr<Event> step_enqueued_;  // main stream, after a step's ops
  std::vector<std::unique_ptr<Event>>
      results_moved_;        // side stream, by lane, after its newest transfers
  int32_t newest_lane_ = 0;  // of the step executed last
};

}  // namespace tessera
