// Batches of point-to-point messages over MPI, waited for politely and stoppable from outside.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include <absl/status/status.h>
#include <mpi.h>

namespace tessera {

// One batch: start sends and receives, then Wait(). Messages of any size are cut to what MPI's int
// counts hold, in the same way on both sides. Used by the thread that calls MPI.
class MpiExchange {
 public:
  // `aborted` turns true from any thread to end a Wait(); both arguments outlive this.
  MpiExchange(MPI_Comm comm, const std::atomic<bool>* aborted) : comm_(comm), aborted_(aborted) {}
  MpiExchange(const MpiExchange&) = delete;
  MpiExchange& operator=(const MpiExchange&) = delete;

  // Receives first, then sends, saves MPI a copy. kInternal: MPI refused.
  absl::Status Receive(void* data, int64_t bytes, int peer, int tag);
  absl::Status Send(const void* data, int64_t bytes, int peer, int tag);

  // Returns when all of the batch is done; the object can then be used for another one.
  // kUnavailable: aborted; receives not yet begun are cancelled. kInternal: MPI reported an error.
  absl::Status Wait();

 private:
  void Cancel();

  const MPI_Comm comm_;
  const std::atomic<bool>* const aborted_;
  std::vector<MPI_Request> requests_;
};

}  // namespace tessera
