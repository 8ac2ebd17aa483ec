// The state of the cluster: the pool of ranks, the models on them, and what happens when something
// registers, loads, unloads or dies. It knows no gRPC.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include "coordinator/clock.h"
#include "coordinator/model_record.h"
#include "coordinator/model_source.h"
#include "coordinator/placement.h"
#include "coordinator/pool.h"
#include "coordinator/serving.h"
#include "proto/cluster.pb.h"
#include "proto/inference.pb.h"

namespace tessera {

struct ClusterOptions {
  ModelSources sources;
  QueueLimits queue;
  int64_t heartbeat_timeout_us = 10'000'000;  // without a word from a rank: it is lost
  int64_t forming_timeout_us = 120'000'000;   // from a pool's first rank to its last
  int64_t progress_timeout_us = 30'000'000;   // without a step while requests run: no progress
};

// What grpc.health.v1 says of `service`: "model/NAME" takes requests; "" and
// "tessera.v1.Inference": some model does and none has failed; "progress": moreover, engines with
// running requests make steps. Called under the mutex, often with the same value: may neither wait
// nor call back.
using HealthFunction = std::function<void(absl::string_view service, bool serving)>;

// Safe from several threads at once. Streams and observers are called under its mutex.
class Cluster {
 public:
  Cluster(ClusterOptions options, PlanFunction find_plan, const Clock& clock,
          HealthFunction health);

  // --- workers ---
  // Returns the pool's epoch and sends Welcome. Errors: those of Pool::Register.
  absl::StatusOr<int64_t> RegisterRank(const internal::Register& info,
                                       std::shared_ptr<RankStream> stream);
  // A report of another epoch than the pool's is dropped.
  void OnReport(int32_t rank, const internal::WorkerReport& report);
  // Ends the pool if `epoch` is its own: all streams of its models end with kUnavailable that
  // names the rank, the other ranks are told to shut down.
  void OnRankLost(int64_t epoch, int32_t rank, absl::string_view why);
  // A leader's stream. kFailedPrecondition: stale epoch, or no such load.
  absl::StatusOr<std::shared_ptr<Serving>> OpenServing(const internal::ServeHello& hello,
                                                       std::shared_ptr<LeaderStream> leader);
  // The end of that stream: the loss of its rank, unless the model is being unloaded.
  void OnServeEnded(const internal::ServeHello& hello);
  // Finds ranks that went silent and engines that stand still; to be called several times a second.
  void Tick();

  // --- users ---
  // Reads the model's files, plans and sends the ranks their shards; the observer hears the rest,
  // or the error. Takes as long as reading a tokenizer does.
  // A load goes on when its observer has lost interest.
  // kAlreadyExists: a model of that name. kUnavailable: the pool is not complete, or draining.
  // Else the errors of FindModelDir, LoadModelFiles and PlaceModel, and a rank's own error.
  void Load(const v1::LoadModelRequest& request, std::shared_ptr<LoadObserver> observer);
  // `done` hears kNotFound, or OK once the ranks are free.
  void Unload(absl::string_view name, std::function<void(const absl::Status&)> done);
  // The plan for `request`, with nothing loaded. kFailedPrecondition: no GPU named and no idle
  // rank registered. Else the errors of FindGpu, FindModelDir, LoadModelConfig and FindPlan.
  absl::StatusOr<v1::PlanResponse> MakePlan(const v1::PlanRequest& request) const;
  // kNotFound: no such model. kUnavailable: it is not ready.
  absl::StatusOr<std::shared_ptr<Serving>> FindReady(absl::string_view name) const;
  // Also of a model that is not ready. kNotFound.
  absl::StatusOr<std::shared_ptr<const ModelFiles>> FindFiles(absl::string_view name) const;
  v1::ListModelsResponse ListModels() const;
  v1::GetStatusResponse GetStatus() const;

  // --- the end ---
  // From here on no model is found ready and none is loaded; running requests go on.
  void StartDrain();
  int64_t live_requests() const;
  // Ends every request with kUnavailable and tells every rank to shut down.
  void Shutdown();

 private:
  using Records = std::map<std::string, ModelRecord, std::less<>>;

  absl::Status CheckLoadable(absl::string_view name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status PlaceAndSend(const v1::LoadModelRequest& request, const std::string& dir,
                            std::shared_ptr<const ModelFiles> files,
                            const std::shared_ptr<LoadObserver>& observer);
  void SendShards(ModelRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void MaybeReady(ModelRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Ends the model's streams with `why` and tells its ranks to free it.
  void BeginUnload(ModelRecord& record, const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void MaybeUnloaded(ModelRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Tells everyone who waits for the record's load or unload, and forgets it.
  void Erase(ModelRecord& record, const absl::Status& load_status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  ModelRecord* FindInstance(int64_t instance) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  const ModelRecord* FindInstance(int64_t instance) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  void OnLoadReport(Rank& rank, const internal::WorkerReport& report)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void LosePool(const std::string& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailModels(const std::string& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::vector<const internal::Register*> IdleRanks() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void UpdateHealth() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const ClusterOptions options_;
  const PlanFunction find_plan_;
  const Clock& clock_;
  const HealthFunction health_;
  const int64_t started_us_;
  std::mutex placement_mu_;  // one placement at a time; taken before mu_
  mutable std::mutex mu_;
  Pool pool_ ABSL_GUARDED_BY(mu_);
  Records records_ ABSL_GUARDED_BY(mu_);
  int64_t next_instance_ ABSL_GUARDED_BY(mu_) = 1;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace tessera
