// A model as one rank holds it, from the coordinator's command until it is unloaded.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <absl/status/statusor.h>

#include "kernels/ops.h"
#include "kernels/runtime/runtime.h"
#include "proto/cluster.pb.h"
#include "worker/arena.h"
#include "worker/engine.h"
#include "worker/group.h"
#include "worker/watchdog.h"

namespace tessera {

struct LoadedModel {
  internal::LoadShard command;
  LayoutInput layout;
  int64_t predicted_bytes = 0;  // layout and reserve
  int64_t measured_bytes = 0;   // GPU: memory in use when ready. CPU: bytes allocated
  std::vector<int32_t> graph_rows;
  // Destroyed from the last to the first: captured graphs hold communicators, and peers map the
  // arena until all ranks have let go of theirs, which the end of the group waits for.
  std::unique_ptr<Arena> arena;
  std::unique_ptr<Group> group;
  std::unique_ptr<Engine> engine;
};

// Forms the group, allocates, loads and starts. Collective over command.ranks(); every step that
// may fail on one rank is followed by a vote, so that all ranks return an error together. Errors as
// the parts give them.
absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(
    const internal::LoadShard& command, int pool_rank, Runtime& runtime, const Ops& ops,
    Watchdog& watchdog, const std::function<void(int64_t loaded, int64_t total)>& progress);

}  // namespace tessera
