// Cluster's half that loads and unloads models.
#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "common/log.h"
#include "common/status_macros.h"
#include "coordinator/cluster.h"
#include "coordinator/model_files.h"
#include "coordinator/plan_proto.h"
#include "coordinator/request_check.h"

namespace tessera {

absl::Status Cluster::CheckLoadable(absl::string_view name) const {
  if (draining_) return absl::UnavailableError("the coordinator is draining");
  const auto place = records_.find(name);
  if (place != records_.end() && place->second.state != ModelState::kFailed) {
    return absl::AlreadyExistsError(
        absl::StrCat("model ", name, ": there is one, ", Name(place->second.state)));
  }
  if (pool_.complete()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the pool is not complete: ", pool_.registered(),
                                             " of ", pool_.size(), " ranks are registered"));
}

void Cluster::Load(const v1::LoadModelRequest& request, std::shared_ptr<LoadObserver> observer) {
  const absl::Status status = [&]() -> absl::Status {
    RETURN_IF_ERROR(CheckName(request.name(), "name"));
    {
      std::lock_guard<std::mutex> lock(mu_);
      RETURN_IF_ERROR(CheckLoadable(request.name()));
    }
    ASSIGN_OR_RETURN(const std::string dir,
                     FindModelDir(request.options().model_dir(), request.name(), options_.sources));
    ASSIGN_OR_RETURN(std::shared_ptr<const ModelFiles> files,
                     LoadModelFiles(dir, request.options()));
    std::lock_guard<std::mutex> placement_lock(placement_mu_);
    return PlaceAndSend(request, dir, std::move(files), observer);
  }();
  if (!status.ok()) observer->OnEnd(status);
}

absl::Status Cluster::PlaceAndSend(const v1::LoadModelRequest& request, const std::string& dir,
                                   std::shared_ptr<const ModelFiles> files,
                                   const std::shared_ptr<LoadObserver>& observer) {
  std::lock_guard<std::mutex> lock(mu_);
  RETURN_IF_ERROR(CheckLoadable(request.name()));
  PlacementRequest wanted = {.options = request.options(),
                             .config = &files->config,
                             .idle = IdleRanks(),
                             .registered = pool_.size()};
  wanted.options.set_model_dir(dir);
  ASSIGN_OR_RETURN(PlacedModel placed, PlaceModel(wanted, find_plan_));
  records_.erase(request.name());  // one that failed
  ModelRecord& record = records_[request.name()];
  record.name = request.name();
  record.instance = next_instance_++;
  record.placed = std::move(placed);
  record.observer = observer;
  record.serving = std::make_shared<Serving>(ServingSpec{.name = request.name(),
                                                         .files = std::move(files),
                                                         .context = record.placed.options.context(),
                                                         .queue = options_.queue},
                                             clock_);
  for (const int32_t rank : record.placed.ranks) record.ranks.push_back({.rank = rank});
  LogInfo("model ", record.name, ": loading ", dir, " as instance ", record.instance, " on ranks ",
          absl::StrJoin(record.placed.ranks, ","), ", tp ", record.placed.plan.shape.tp, ", pp ",
          record.placed.plan.shape.pp, ", ", record.placed.plan.kv_blocks, " kv blocks");
  for (const std::string& warning : record.placed.plan.warnings) {
    LogWarning("model ", record.name, ": ", warning);
  }
  v1::LoadModelEvent event;
  event.set_state("PLANNED");
  *event.mutable_plan() = ToProto(record.placed.plan);
  for (size_t i = 0; i < record.placed.ranks.size(); ++i) {
    event.mutable_plan()->mutable_ranks(static_cast<int>(i))->set_rank(record.placed.ranks[i]);
  }
  observer->OnEvent(event);
  UpdateHealth();
  SendShards(record);
  return absl::OkStatus();
}

void Cluster::SendShards(ModelRecord& record) {
  internal::WorkerCommand command;
  internal::LoadShard& shard = *command.mutable_load();
  shard.set_instance(record.instance);
  shard.set_name(record.name);
  *shard.mutable_options() = record.placed.options;
  shard.mutable_ranks()->Assign(record.placed.ranks.begin(), record.placed.ranks.end());
  shard.set_kv_blocks(record.placed.plan.kv_blocks);
  for (const int32_t number : record.placed.ranks) {
    Rank* rank = pool_.Find(pool_.epoch(), number);
    rank->instance = record.instance;
    rank->stream->Send(command);
  }
}

void Cluster::MaybeReady(ModelRecord& record) {
  if (record.leader == nullptr || !AllIn(record, RankPhase::kLoaded)) return;
  record.state = ModelState::kReady;
  record.serving->Open(record.leader);
  UpdateHealth();  // whoever hears of an end finds health as it says
  LogInfo("model ", record.name, ": ready");
  if (record.observer != nullptr) {
    record.observer->OnEvent(ReadyEvent(record));
    record.observer->OnEnd(absl::OkStatus());
    record.observer = nullptr;
  }
}

void Cluster::BeginUnload(ModelRecord& record, const absl::Status& why) {
  record.state = ModelState::kUnloading;
  UpdateHealth();
  record.serving->Close(why);
  if (record.leader != nullptr) record.leader->Close(why);
  internal::WorkerCommand command;
  command.mutable_unload()->set_instance(record.instance);
  for (ModelRank& part : record.ranks) {
    if (part.phase == RankPhase::kFree) continue;
    part.phase = RankPhase::kUnloading;
    if (const Rank* rank = pool_.Find(pool_.epoch(), part.rank)) rank->stream->Send(command);
  }
}

void Cluster::MaybeUnloaded(ModelRecord& record) {
  if (!AllIn(record, RankPhase::kFree)) return;
  LogInfo("model ", record.name, ": unloaded");
  Erase(record, record.failure.ok() ? absl::UnavailableError("unloaded before it was ready")
                                    : record.failure);
}

void Cluster::Erase(ModelRecord& record, const absl::Status& load_status) {
  const auto node = records_.extract(record.name);
  const ModelRecord& gone = node.mapped();
  if (health_ != nullptr) health_(absl::StrCat("model/", gone.name), false);
  UpdateHealth();
  if (gone.observer != nullptr) gone.observer->OnEnd(load_status);
  for (const auto& waiter : gone.unload_waiters) waiter(absl::OkStatus());
}

void Cluster::Unload(absl::string_view name, std::function<void(const absl::Status&)> done) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto place = records_.find(name);
  if (place == records_.end()) {
    done(absl::NotFoundError(absl::StrCat("model ", name, ": not loaded")));
    return;
  }
  ModelRecord& record = place->second;
  record.unload_waiters.push_back(std::move(done));
  if (record.state == ModelState::kFailed) {  // its ranks are gone
    Erase(record, absl::OkStatus());
  } else if (record.state != ModelState::kUnloading) {
    BeginUnload(record, absl::UnavailableError(absl::StrCat("model ", name, ": unloaded")));
    MaybeUnloaded(record);
  }
}

ModelRecord* Cluster::FindInstance(int64_t instance) {
  return const_cast<ModelRecord*>(std::as_const(*this).FindInstance(instance));
}

const ModelRecord* Cluster::FindInstance(int64_t instance) const {
  const auto place = std::find_if(records_.begin(), records_.end(), [instance](const auto& item) {
    return item.second.instance == instance;
  });
  return place == records_.end() ? nullptr : &place->second;
}

std::vector<const internal::Register*> Cluster::IdleRanks() const {
  std::vector<const internal::Register*> idle;
  for (const std::optional<Rank>& rank : pool_.ranks()) {
    if (rank.has_value() && rank->instance == 0) idle.push_back(&rank->info);
  }
  return idle;
}

}  // namespace tessera
