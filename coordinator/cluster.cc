#include "coordinator/cluster.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "common/build_commit.h"
#include "common/status_macros.h"
#include "common/version.h"
#include "coordinator/model_files.h"
#include "coordinator/plan_proto.h"
#include "planner/gpus.h"

namespace tessera {

Cluster::Cluster(ClusterOptions options, PlanFunction find_plan, const Clock& clock,
                 HealthFunction health)
    : options_(std::move(options)),
      find_plan_(std::move(find_plan)),
      clock_(clock),
      health_(std::move(health)),
      started_us_(clock.SteadyUs()) {}

absl::StatusOr<v1::PlanResponse> Cluster::MakePlan(const v1::PlanRequest& request) const {
  if (request.options().model_dir().empty()) {
    return absl::InvalidArgumentError("options.model_dir: empty");
  }
  ASSIGN_OR_RETURN(const std::string dir,
                   FindModelDir(request.options().model_dir(), "", options_.sources));
  ASSIGN_OR_RETURN(ModelConfig config, LoadModelConfig(dir));
  if (!request.options().quant().empty()) {
    ASSIGN_OR_RETURN(config.quant, ParseQuantFormat(request.options().quant()));
  }
  if (request.sequences() < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("sequences: ", request.sequences(), " is negative"));
  }
  GpuFacts device;
  int64_t cap = request.options().device_memory_bytes();
  if (!request.gpu().empty()) {
    ASSIGN_OR_RETURN(device, FindGpu(request.gpu()));
  } else {
    std::lock_guard<std::mutex> lock(mu_);
    const auto idle = IdleRanks();
    if (idle.empty()) {
      return absl::FailedPreconditionError("gpu: not named, and no idle rank is registered");
    }
    const PoolDevice common = CommonDevice(idle);
    device = common.facts;
    const auto usable = static_cast<int64_t>(kUsableShare * static_cast<double>(common.free_bytes));
    cap = cap == 0 ? usable : std::min(cap, common.free_bytes);
  }
  ASSIGN_OR_RETURN(const v1::ModelOptions options,
                   ResolveOptions(request.options(), config, device.spec.device));
  PlanInput input = MakePlanInput(options, config, device);
  input.memory_cap = cap;
  input.sequences = std::max(request.sequences(), 1);
  input.limits.max_sequences = std::max(input.limits.max_sequences, input.sequences);
  ASSIGN_OR_RETURN(const Plan plan, find_plan_(input));
  return ToProto(plan);
}

absl::StatusOr<std::shared_ptr<Serving>> Cluster::FindReady(absl::string_view name) const {
  std::lock_guard<std::mutex> lock(mu_);
  const auto place = records_.find(name);
  if (place == records_.end()) {
    return absl::NotFoundError(
        absl::StrCat("model \"", name.substr(0, kMaxNameBytes), "\": not loaded"));
  }
  if (draining_) return absl::UnavailableError("the coordinator is draining");
  if (place->second.state != ModelState::kReady) {
    return absl::UnavailableError(
        absl::StrCat("model ", name, ": not ready, ", Name(place->second.state)));
  }
  return place->second.serving;
}

absl::StatusOr<std::shared_ptr<const ModelFiles>> Cluster::FindFiles(absl::string_view name) const {
  std::lock_guard<std::mutex> lock(mu_);
  const auto place = records_.find(name);
  if (place != records_.end()) return place->second.serving->spec().files;
  return absl::NotFoundError(
      absl::StrCat("model \"", name.substr(0, kMaxNameBytes), "\": not loaded"));
}

v1::ListModelsResponse Cluster::ListModels() const {
  v1::ListModelsResponse response;
  std::lock_guard<std::mutex> lock(mu_);
  for (const auto& [name, record] : records_) *response.add_models() = InfoOf(record);
  return response;
}

v1::GetStatusResponse Cluster::GetStatus() const {
  v1::GetStatusResponse response;
  std::lock_guard<std::mutex> lock(mu_);
  response.set_version(kVersion);
  response.set_commit(BuildCommit());
  response.set_draining(draining_);
  response.set_pool_ranks(pool_.registered());
  response.set_uptime_s(static_cast<double>(clock_.SteadyUs() - started_us_) / 1e6);
  for (const std::optional<Rank>& rank : pool_.ranks()) {
    if (!rank.has_value()) continue;
    v1::RankStatus& status = *response.add_ranks();
    status.set_rank(rank->info.rank());
    status.set_host(rank->info.host());
    status.set_device(rank->info.device());
    status.set_total_bytes(rank->info.total_bytes());
    status.set_free_bytes(rank->info.free_bytes());
    status.set_driver_version(rank->info.driver_version());
    status.set_runtime_version(rank->info.runtime_version());
    status.set_commit(rank->info.commit());
    if (const ModelRecord* record = FindInstance(rank->instance)) status.set_model(record->name);
  }
  for (const auto& [name, record] : records_) *response.add_models() = StatusOf(record);
  return response;
}

void Cluster::StartDrain() {
  std::lock_guard<std::mutex> lock(mu_);
  draining_ = true;
  UpdateHealth();
}

int64_t Cluster::live_requests() const {
  std::lock_guard<std::mutex> lock(mu_);
  int64_t live = 0;
  for (const auto& [name, record] : records_) live += record.serving->stats().live;
  return live;
}

void Cluster::Shutdown() {
  std::lock_guard<std::mutex> lock(mu_);
  draining_ = true;
  if (pool_.size() > 0) LosePool("the coordinator shuts down");
  UpdateHealth();
}

void Cluster::UpdateHealth() {
  if (health_ == nullptr) return;
  bool any_ready = false;
  bool any_failed = false;
  bool progress = true;
  for (const auto& [name, record] : records_) {
    const bool ready = record.state == ModelState::kReady && !draining_;
    health_(absl::StrCat("model/", name), ready);
    any_ready = any_ready || ready;
    any_failed = any_failed || record.state == ModelState::kFailed;
    if (record.state != ModelState::kReady) continue;
    const ServingStats stats = record.serving->stats();
    const int64_t idle_us = clock_.SteadyUs() - stats.last_step_us;
    progress = progress && (stats.engine.running() == 0 || idle_us < options_.progress_timeout_us);
  }
  const bool serving = any_ready && !any_failed;
  health_("", serving);
  health_("tessera.v1.Inference", serving);
  health_("progress", serving && progress);
}

}  // namespace tessera
