#include "worker/loaded_model.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "planner/step_capacity.h"
#include "worker/messages.h"

namespace tessera {
namespace {

// For what ranks do together while a model starts: library start-up, first launches, graph capture.
constexpr absl::Duration kJoinAllowance = absl::Minutes(3);

// Memory in use on the rank's device: on a GPU by everyone on it, which is this process alone.
absl::StatusOr<int64_t> MeasuredBytes(const Runtime& runtime, const Arena& arena) {
  if (runtime.device() == Device::kCpu) return arena.bytes();
  ASSIGN_OR_RETURN(const DeviceFacts facts, runtime.Facts());
  return facts.total_bytes - facts.free_bytes;
}

absl::StatusOr<std::unique_ptr<Arena>> AllocateLayout(LoadedModel& model, Runtime& runtime) {
  ASSIGN_OR_RETURN(const std::vector<BufferSpec> buffers, MemoryLayout(model.layout));
  model.predicted_bytes =
      TotalBytes(buffers) + ReserveBytes(model.layout.device, model.layout.shard.shape);
  return Arena::Create(runtime, buffers);
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(
    const internal::LoadShard& command, int pool_rank, Runtime& runtime, const Ops& ops,
    Watchdog& watchdog, const std::function<void(int64_t, int64_t)>& progress) {
  auto model = std::make_unique<LoadedModel>();
  model->command = command;
  const std::vector<int> ranks(command.ranks().begin(), command.ranks().end());
  const auto place = std::find(ranks.begin(), ranks.end(), pool_rank);
  if (place == ranks.end())
    return absl::InvalidArgumentError(absl::StrCat("rank ", pool_rank, " is not of the group"));
  const auto group_rank = static_cast<int>(place - ranks.begin());

  ASSIGN_OR_RETURN(const DeviceFacts facts, runtime.Facts());
  const DeviceSpec device = {.device = runtime.device(), .sm_count = facts.sm_count};
  const v1::ModelOptions& options = command.options();
  GroupSpec group = {.pool_ranks = ranks,
                     .instance = command.instance(),
                     .shape = {.tp = options.tp(), .pp = options.pp()},
                     .device = runtime.device()};
  group.max_plan_bytes = MaxPlanBytes({.context = options.context(),
                                       .max_sequences = options.max_sequences(),
                                       .max_step_tokens = options.max_step_tokens(),
                                       .block_size = options.block_size()});
  ASSIGN_OR_RETURN(model->group, Group::Create(group, ops));

  absl::StatusOr<LayoutInput> layout = LayoutOf(command, group_rank, device);
  if (layout.ok()) model->layout = *layout;
  absl::StatusOr<std::unique_ptr<Arena>> arena =
      layout.ok() ? AllocateLayout(*model, runtime)
                  : absl::StatusOr<std::unique_ptr<Arena>>(layout.status());
  RETURN_IF_ERROR(model->group->Agree(arena.status()));
  model->arena = *std::move(arena);
  const Arena& memory = *model->arena;
  watchdog.Arm(kJoinAllowance, "joining the group");
  RETURN_IF_ERROR(
      model->group->Agree(model->group->Connect(memory.Find("peer"), memory.SizeOf("peer"))));
  watchdog.Disarm();

  EngineSpec spec;
  spec.layout = model->layout;
  spec.leader = model->group->leader();
  spec.load = {.model_dir = options.model_dir(),
               .dummy = options.load_format() == "dummy",
               .progress = progress};
  model->graph_rows = Engine::GraphRows(spec, runtime.device());
  absl::StatusOr<std::unique_ptr<Engine>> engine =
      Engine::Create(spec, model->group->peers(), memory, runtime, ops);
  RETURN_IF_ERROR(model->group->Agree(engine.status()));
  model->engine = *std::move(engine);
  watchdog.Arm(kJoinAllowance, "the first steps");
  RETURN_IF_ERROR(model->group->Agree(model->engine->Start()));
  watchdog.Disarm();
  ASSIGN_OR_RETURN(model->measured_bytes, MeasuredBytes(runtime, memory));
  return model;
}

}  // namespace tessera
