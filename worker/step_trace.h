// A per-op time table of one decode step, taken when a model has loaded (tessera-worker
// --trace-context).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "kernels/op_trace.h"
#include "parallel/communicator.h"
#include "planner/memory_layout.h"
#include "worker/engine.h"

namespace tessera {

// `inner`, with reductions and gathers timed by `trace`. Both outlive the result.
std::unique_ptr<Communicator> NewTracedCommunicator(Communicator& inner, OpTrace& trace);

// Runs decode steps of one sequence whose token is number `context` (clipped to the engine's
// limits), without graphs, and returns the table of one of them: op and shape, calls, microseconds,
// share. The engine must be idle; it uses slot 0 and the first KV blocks. Collective over the
// group. Errors as Engine::Execute() gives them.
absl::StatusOr<std::string> TraceDecodeStep(Engine& engine, OpTrace& trace,
                                            const LayoutInput& layout, int64_t context,
                                            bool leader);

}  // namespace tessera
