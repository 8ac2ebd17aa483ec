#include "worker/loaded_model.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/log.h"
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

absl::Status FormGroup(LoadedModel& model, const LoadContext& context) {
  const v1::ModelOptions& options = model.command.options();
  GroupSpec spec;
  spec.pool_ranks.assign(model.command.ranks().begin(), model.command.ranks().end());
  spec.instance = model.command.instance();
  spec.shape = {.tp = options.tp(), .pp = options.pp()};
  spec.device = context.runtime->device();
  spec.max_plan_bytes = MaxPlanBytes(LimitsOf(options));
  const auto& ranks = spec.pool_ranks;
  if (std::find(ranks.begin(), ranks.end(), context.pool_rank) == ranks.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", context.pool_rank, " is not of the group"));
  }
  ASSIGN_OR_RETURN(model.group, Group::Create(spec, *context.ops));
  return absl::OkStatus();
}

absl::Status Allocate(LoadedModel& model, Runtime& runtime) {
  ASSIGN_OR_RETURN(const DeviceFacts facts, runtime.Facts());
  const DeviceSpec device = {.device = runtime.device(), .sm_count = facts.sm_count};
  ASSIGN_OR_RETURN(model.layout, LayoutOf(model.command, model.group->rank(), device));
  ASSIGN_OR_RETURN(const std::vector<BufferSpec> buffers, MemoryLayout(model.layout));
  model.predicted_bytes =
      TotalBytes(buffers) + ReserveBytes(model.layout.device, model.layout.shard.shape);
  model.allowance = std::make_unique<StepAllowance>(model.layout, buffers);
  ASSIGN_OR_RETURN(model.arena, Arena::Create(runtime, buffers));
  return absl::OkStatus();
}

absl::Status LoadEngine(LoadedModel& model, const LoadContext& context) {
  const v1::ModelOptions& options = model.command.options();
  EngineSpec spec;
  spec.layout = model.layout;
  spec.leader = model.group->leader();
  spec.load = {.model_dir = options.model_dir(),
               .dummy = options.load_format() == "dummy",
               .progress = context.progress};
  model.graph_rows = Engine::GraphRows(spec, context.runtime->device());
  EnginePeers peers = model.group->peers();
  if (context.trace != nullptr) {
    model.traced_tp = NewTracedCommunicator(*peers.tp, *context.trace);
    peers.tp = model.traced_tp.get();
  }
  ASSIGN_OR_RETURN(model.engine,
                   Engine::Create(spec, peers, *model.arena, *context.runtime, *context.ops));
  return absl::OkStatus();
}

absl::Status StartEngine(LoadedModel& model, const LoadContext& context) {
  RETURN_IF_ERROR(model.engine->Start());
  if (context.trace == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string table,
                   TraceDecodeStep(*model.engine, *context.trace, model.layout,
                                   context.trace_context, model.group->leader()));
  LogInfo(model.command.name(), ": ", table);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const internal::LoadShard& command,
                                                       const LoadContext& context) {
  auto model = std::make_unique<LoadedModel>();
  model->command = command;
  Runtime& runtime = *context.runtime;
  RETURN_IF_ERROR(FormGroup(*model, context));
  const Group& group = *model->group;
  RETURN_IF_ERROR(group.Agree(Allocate(*model, runtime)));
  context.watchdog->Arm(kJoinAllowance, "joining the group");
  const absl::Status joined =
      group.Agree(model->group->Connect(model->arena->Find("peer"), model->arena->SizeOf("peer")));
  context.watchdog->Disarm();  // also when the load ends here: the rank lives on
  RETURN_IF_ERROR(joined);
  RETURN_IF_ERROR(group.Agree(LoadEngine(*model, context)));
  context.watchdog->Arm(kJoinAllowance, "the first steps");
  const absl::Status started = group.Agree(StartEngine(*model, context));
  context.watchdog->Disarm();
  RETURN_IF_ERROR(started);
  ASSIGN_OR_RETURN(model->measured_bytes, MeasuredBytes(runtime, *model->arena));
  return model;
}

}  // namespace tessera
