// A model as one rank holds it, from the coordinator's command until it is unloaded.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <absl/status/statusor.h>

#include "kernels/op_trace.h"
#include "kernels/ops.h"
#include "kernels/runtime/runtime.h"
#include "proto/cluster.pb.h"
#include "worker/arena.h"
#include "worker/engine.h"
#include "worker/group.h"
#include "worker/step_allowance.h"
#include "worker/step_trace.h"
#include "worker/watchdog.h"

namespace tessera {

struct LoadedModel {
  internal::LoadShard command;
  LayoutInput layout;
  int64_t predicted_bytes = 0;  // layout and reserve
  int64_t measured_bytes = 0;   // GPU: memory in use when ready. CPU: bytes allocated
  std::vector<int32_t> graph_rows;
  std::unique_ptr<StepAllowance> allowance;
  // Destroyed from the last to the first: captured graphs hold communicators, and peers map the
  // arena until all ranks have let go of theirs, which the end of the group waits for.
  std::unique_ptr<Arena> arena;
  std::unique_ptr<Group> group;
  std::unique_ptr<Communicator> traced_tp;  // the group's, timed; null without a trace
  std::unique_ptr<Engine> engine;
};

// What a rank brings to a load. All outlive the model.
struct LoadContext {
  int pool_rank = 0;
  Runtime* runtime = nullptr;
  const Ops* ops = nullptr;
  Watchdog* watchdog = nullptr;
  OpTrace* trace = nullptr;   // not null: `ops` is its table, and a traced step is logged
  int64_t trace_context = 0;  // tokens cached in that step
  std::function<void(int64_t loaded, int64_t total)> progress;
};

// Forms the group, allocates, loads and starts. Collective over command.ranks(); every step that
// may fail on one rank is followed by a vote, so that all ranks return an error together; a rank
// stuck in a collective that another gave up is the watchdog's. Errors as the parts give them.
absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const internal::LoadShard& command,
                                                       const LoadContext& context);

}  // namespace tessera
