// Cluster's half that faces the workers.
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "common/log.h"
#include "coordinator/cluster.h"

namespace tessera {
namespace {

constexpr size_t kMaxMessageBytes = 1024;  // of a worker's error that is passed on

internal::WorkerCommand ShutdownCommand() {
  internal::WorkerCommand command;
  command.mutable_shutdown();
  return command;
}

absl::Status FailureOf(const internal::Register& rank, const internal::LoadFailed& failed) {
  auto code = static_cast<absl::StatusCode>(failed.code());
  if (failed.code() <= 0 || failed.code() > 16) code = absl::StatusCode::kUnknown;
  return absl::Status(
      code, absl::StrCat(Describe(rank), ": ", failed.message().substr(0, kMaxMessageBytes)));
}

}  // namespace

absl::StatusOr<int64_t> Cluster::RegisterRank(const internal::Register& info,
                                              std::shared_ptr<RankStream> stream) {
  std::lock_guard<std::mutex> lock(mu_);
  if (draining_) return absl::UnavailableError("the coordinator is draining");
  auto epoch = pool_.Register(info, stream, clock_.SteadyUs());
  if (!epoch.ok()) {
    LogWarning("registration refused: ", epoch.status().message());
    return epoch;
  }
  internal::WorkerCommand command;
  command.mutable_welcome()->set_epoch(*epoch);
  stream->Send(command);
  LogInfo(Describe(info), " registered: ", pool_.registered(), " of ", pool_.size(), ", epoch ",
          *epoch, ", ", info.device().substr(0, 128), ", ", info.free_bytes() >> 20, " MiB free");
  return epoch;
}

void Cluster::OnReport(int32_t number, const internal::WorkerReport& report) {
  std::lock_guard<std::mutex> lock(mu_);
  Rank* rank = pool_.Find(report.epoch(), number);
  if (rank == nullptr) {
    LogWarning("rank ", number, ": report of epoch ", report.epoch(), " dropped; the pool is of ",
               pool_.epoch());
    return;
  }
  rank->last_heard_us = clock_.SteadyUs();
  switch (report.report_case()) {
    case internal::WorkerReport::kHeartbeat:
      rank->steps = report.heartbeat().steps();
      break;
    case internal::WorkerReport::kFatal:
      LosePool(absl::StrCat(Describe(rank->info),
                            " was lost: ", report.fatal().message().substr(0, kMaxMessageBytes)));
      break;
    default:
      OnLoadReport(*rank, report);
  }
}

void Cluster::OnLoadReport(Rank& rank, const internal::WorkerReport& report) {
  ModelRecord* record = FindInstance(rank.instance);
  if (record == nullptr) return;
  ModelRank* part = FindRank(*record, rank.info.rank());
  if (part == nullptr) return;
  const bool loading = record->state == ModelState::kLoading;
  const int64_t instance = record->instance;
  if (report.has_progress() && report.progress().instance() == instance && loading) {
    part->loaded_bytes = report.progress().loaded_bytes();
    part->total_bytes = report.progress().total_bytes();
    if (record->observer != nullptr) record->observer->OnEvent(ProgressEvent(*record));
  } else if (report.has_loaded() && report.loaded().instance() == instance && loading) {
    part->phase = RankPhase::kLoaded;
    part->loaded_bytes = part->total_bytes;
    part->memory.set_rank(part->rank);
    part->memory.set_predicted_bytes(report.loaded().predicted_bytes());
    part->memory.set_measured_bytes(report.loaded().measured_bytes());
    MaybeReady(*record);
  } else if (report.has_load_failed() && report.load_failed().instance() == instance) {
    part->phase = RankPhase::kFree;
    rank.instance = 0;
    if (loading) {
      record->failure = FailureOf(rank.info, report.load_failed());
      LogWarning("model ", record->name, " is not loaded: ", record->failure.ToString());
      BeginUnload(*record, record->failure);
    }
    MaybeUnloaded(*record);
  } else if (report.has_unloaded() && report.unloaded().instance() == instance &&
             part->phase == RankPhase::kUnloading) {
    part->phase = RankPhase::kFree;
    rank.instance = 0;
    MaybeUnloaded(*record);
  }
}

void Cluster::OnRankLost(int64_t epoch, int32_t number, absl::string_view why) {
  std::lock_guard<std::mutex> lock(mu_);
  const Rank* rank = pool_.Find(epoch, number);
  if (rank != nullptr) LosePool(absl::StrCat(Describe(rank->info), " was lost: ", why));
}

void Cluster::LosePool(const std::string& why) {
  if (draining_) {
    LogInfo("pool of epoch ", pool_.epoch(), " ends: ", why);
  } else {
    LogError("pool of epoch ", pool_.epoch(), " ended: ", why);
  }
  FailModels(why);
  for (const std::shared_ptr<RankStream>& stream : pool_.Dissolve()) {
    stream->Send(ShutdownCommand());
    stream->Close(absl::UnavailableError(why));
  }
}

void Cluster::FailModels(const std::string& why) {
  std::vector<ModelRecord*> lost;
  std::vector<ModelRecord*> gone;
  for (auto& [name, record] : records_) {
    if (record.state == ModelState::kFailed) continue;
    lost.push_back(&record);
    if (record.state == ModelState::kReady) {
      record.state = ModelState::kFailed;
    } else {
      gone.push_back(&record);
    }
  }
  UpdateHealth();  // whoever hears of an end finds health as it says
  for (ModelRecord* record : lost) {
    const absl::Status status =
        absl::UnavailableError(absl::StrCat("model ", record->name, ": ", why));
    record->serving->Close(status);
    if (record->leader != nullptr) record->leader->Close(status);
    record->leader = nullptr;
    if (record->failure.ok()) record->failure = status;
  }
  for (ModelRecord* record : gone) Erase(*record, absl::Status(record->failure));
}

absl::StatusOr<std::shared_ptr<Serving>> Cluster::OpenServing(
    const internal::ServeHello& hello, std::shared_ptr<LeaderStream> leader) {
  std::lock_guard<std::mutex> lock(mu_);
  ModelRecord* record = FindInstance(hello.instance());
  if (hello.epoch() != pool_.epoch() || pool_.size() == 0 || record == nullptr ||
      record->state != ModelState::kLoading || record->leader != nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("hello of epoch ", hello.epoch(), ", instance ", hello.instance(),
                     ": no such load under way; the pool's epoch is ", pool_.epoch()));
  }
  record->leader = std::move(leader);
  std::shared_ptr<Serving> serving = record->serving;
  MaybeReady(*record);
  return serving;
}

void Cluster::OnServeEnded(const internal::ServeHello& hello) {
  std::lock_guard<std::mutex> lock(mu_);
  const ModelRecord* record = FindInstance(hello.instance());
  if (hello.epoch() != pool_.epoch() || record == nullptr) return;
  if (record->state != ModelState::kReady && record->state != ModelState::kLoading) return;
  const Rank* leader = pool_.Find(hello.epoch(), record->ranks.front().rank);
  if (leader == nullptr) return;
  LosePool(absl::StrCat(Describe(leader->info), " was lost: its stream for model ", record->name,
                        " ended"));
}

void Cluster::Tick() {
  std::lock_guard<std::mutex> lock(mu_);
  const int64_t now = clock_.SteadyUs();
  for (const std::optional<Rank>& rank : pool_.ranks()) {
    if (!rank.has_value() || now - rank->last_heard_us < options_.heartbeat_timeout_us) continue;
    LosePool(absl::StrCat(Describe(rank->info), " was lost: silent for ",
                          (now - rank->last_heard_us) / 1'000'000, " s"));
    return;
  }
  if (pool_.size() > 0 && !pool_.complete() &&
      now - pool_.opened_us() >= options_.forming_timeout_us) {
    LosePool(absl::StrCat(pool_.registered(), " of ", pool_.size(), " ranks registered in ",
                          options_.forming_timeout_us / 1'000'000, " s"));
  }
  UpdateHealth();
}

}  // namespace tessera
