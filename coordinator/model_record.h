// One model from its placement to the moment its ranks are free again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

#include "coordinator/placement.h"
#include "coordinator/serving.h"
#include "proto/inference.pb.h"

namespace tessera {

enum class ModelState : uint8_t {
  kLoading,
  kReady,
  kUnloading,
  kFailed,  // a rank was lost; it stays listed until it is unloaded or loaded again
};

// "LOADING", "READY", "UNLOADING", "FAILED".
absl::string_view Name(ModelState state);

// Who asked for a load. Called under the cluster's mutex: neither call may wait or call back.
class LoadObserver {
 public:
  virtual ~LoadObserver() = default;
  virtual void OnEvent(const v1::LoadModelEvent& event) = 0;
  virtual void OnEnd(const absl::Status& status) = 0;  // once, last
};

enum class RankPhase : uint8_t { kLoading, kLoaded, kUnloading, kFree };

struct ModelRank {
  int32_t rank = 0;  // of the pool
  RankPhase phase = RankPhase::kLoading;
  int64_t loaded_bytes = 0;
  int64_t total_bytes = 0;
  v1::RankMemory memory;  // when loaded
};

struct ModelRecord {
  std::string name;
  int64_t instance = 0;
  ModelState state = ModelState::kLoading;
  PlacedModel placed;
  std::vector<ModelRank> ranks;  // in the order of placed.ranks; the first leads
  std::shared_ptr<Serving> serving;
  std::shared_ptr<LeaderStream> leader;    // once it said hello
  std::shared_ptr<LoadObserver> observer;  // null once it has heard the end
  absl::Status failure;                    // of the load, or of the model that was ready
  std::vector<std::function<void(const absl::Status&)>> unload_waiters;
};

// Null: not a rank of the model.
ModelRank* FindRank(ModelRecord& record, int32_t rank);

bool AllIn(const ModelRecord& record, RankPhase phase);

// Bytes loaded so far on all ranks, as a LOADING event.
v1::LoadModelEvent ProgressEvent(const ModelRecord& record);

// The READY event, with every rank's memory.
v1::LoadModelEvent ReadyEvent(const ModelRecord& record);

v1::ModelInfo InfoOf(const ModelRecord& record);
v1::ModelStatus StatusOf(const ModelRecord& record);

}  // namespace tessera
