// The sending half of a stream to a worker.
#pragma once

#include <absl/status/status.h>

namespace tessera {

// Neither call waits, and neither calls back into whoever calls it: both are made under locks.
template <typename Message>
class OutStream {
 public:
  virtual ~OutStream() = default;
  // Queues a message. False: the stream has ended, or the peer has stopped reading and the queue
  // is full.
  virtual bool Send(const Message& message) = 0;
  // Ends the stream, after what is queued, with `status`. Only the first Close counts.
  virtual void Close(const absl::Status& status) = 0;
};

}  // namespace tessera
