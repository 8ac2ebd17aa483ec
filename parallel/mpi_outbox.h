// Small messages that their sender does not wait for.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include <absl/status/status.h>
#include <mpi.h>

namespace tessera {

// Keeps a copy of each message until MPI has taken it. Used by the thread that calls MPI.
class MpiOutbox {
 public:
  // Open MPI passes messages up to 4 KiB, its header included, without the receiver's help (eager,
  // over shared memory).
  static constexpr int64_t kPieceBytes = 3840;

  explicit MpiOutbox(MPI_Comm comm) : comm_(comm) {}
  // Waits up to a second for what is still under way; a message that outlasts it is leaked, since
  // MPI may yet read it.
  ~MpiOutbox();
  MpiOutbox(const MpiOutbox&) = delete;
  MpiOutbox& operator=(const MpiOutbox&) = delete;

  // Starts sending a copy, in pieces of kPieceBytes, and returns. kInternal: MPI refused.
  absl::Status Post(const void* data, int64_t bytes, int peer, int tag);

 private:
  struct Message {
    std::vector<char> data;
    MPI_Request request = MPI_REQUEST_NULL;
  };

  absl::Status Reap();

  const MPI_Comm comm_;
  std::deque<Message> under_way_;  // a deque: messages stay where MPI reads them
};

}  // namespace tessera
