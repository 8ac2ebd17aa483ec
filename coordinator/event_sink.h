// Where a live stream's events go: the client's side of a Generate call.
#pragma once

#include <absl/status/status.h>

#include "proto/inference.pb.h"

namespace tessera {

// Neither call waits, and neither calls back into whoever calls it: both are made under locks.
class EventSink {
 public:
  virtual ~EventSink() = default;
  // Queues an event. False: the client does not read and the buffer is full; the sink has then
  // ended the stream itself and takes nothing more.
  virtual bool Push(v1::GenerateEvent event) = 0;
  // Ends the stream after what is queued. Only the first End counts.
  virtual void End(const absl::Status& status) = 0;
};

}  // namespace tessera
