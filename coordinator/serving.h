// The requests of one loaded model, from admission to their last event.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "coordinator/admission.h"
#include "coordinator/clock.h"
#include "coordinator/event_sink.h"
#include "coordinator/journal.h"
#include "coordinator/live_request.h"
#include "coordinator/model_files.h"
#include "coordinator/out_stream.h"
#include "proto/cluster.pb.h"

namespace tessera {

using LeaderStream = OutStream<internal::CoordinatorMessage>;

struct ServingSpec {
  std::string name;  // of the model
  std::shared_ptr<const ModelFiles> files;
  int64_t context = 0;
  QueueLimits queue;
};

struct ServingStats {
  internal::EngineStats engine;  // as the leader last said; zeros when not open
  int64_t live = 0;              // requests that have not ended
  int64_t completed = 0;         // requests that have ended, however they did
  int64_t refused = 0;           // requests that found the queue full
  int64_t last_step_us = 0;      // steady time at which `engine.steps` last grew
};

// Safe from several threads at once. Sinks and the leader's stream are called under its mutex.
class Serving {
 public:
  Serving(ServingSpec spec, const Clock& clock);

  const ServingSpec& spec() const { return spec_; }

  // Requests are taken from here on.
  void Open(std::shared_ptr<LeaderStream> leader);
  // Ends every live request with `why`, which later ones get too, and the leader's stream.
  void Close(const absl::Status& why);

  // Sends a request, which came at `accepted`, to the leader and returns the number to cancel it
  // by. The sink has got its first event; from here on it is ended exactly once by this object.
  // kUnavailable: the model is not open. kResourceExhausted: the queue is full.
  absl::StatusOr<uint64_t> Start(CheckedRequest request, std::shared_ptr<EventSink> sink,
                                 Moment accepted);
  // Ends a request with `why`, here and at the leader; one that has ended stays as it is.
  void Cancel(uint64_t request, const absl::Status& why);

  void OnMessage(const internal::LeaderMessage& message);

  ServingStats stats() const;

 private:
  struct Place {
    uint64_t request = 0;
    int choice = 0;
  };

  void OnSequence(const internal::SequenceEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SubmitChoices(const JournalEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CancelAtLeader(uint64_t sequence) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void End(uint64_t request, const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const ServingSpec spec_;
  const Clock& clock_;
  mutable std::mutex mu_;
  std::shared_ptr<LeaderStream> leader_ ABSL_GUARDED_BY(mu_);  // null: not open
  absl::Status closed_ ABSL_GUARDED_BY(mu_);                   // what Start returns then
  Admission admission_ ABSL_GUARDED_BY(mu_);
  Journal journal_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, LiveRequest> live_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<uint64_t, Place> sequences_ ABSL_GUARDED_BY(mu_);
  uint64_t next_request_ ABSL_GUARDED_BY(mu_) = 1;
  uint64_t next_sequence_ ABSL_GUARDED_BY(mu_) = 1;
  ServingStats stats_ ABSL_GUARDED_BY(mu_);
};

}  // namespace tessera
