#include "parallel/mpi_exchange.h"

#include <algorithm>

#include "common/status_macros.h"
#include "parallel/back_off.h"
#include "parallel/mpi_status.h"

namespace tessera {
namespace {

constexpr int64_t kMaxMessageBytes = int64_t{1} << 30;

}  // namespace

absl::Status MpiExchange::Receive(void* data, int64_t bytes, int peer, int tag) {
  auto* at = static_cast<char*>(data);
  for (int64_t left = bytes; left > 0; left -= kMaxMessageBytes, at += kMaxMessageBytes) {
    MPI_Request request;
    RETURN_IF_MPI_ERROR(MPI_Irecv(at, static_cast<int>(std::min(left, kMaxMessageBytes)), MPI_BYTE,
                                  peer, tag, comm_, &request),
                        "receive");
    requests_.push_back(request);
  }
  return absl::OkStatus();
}

absl::Status MpiExchange::Send(const void* data, int64_t bytes, int peer, int tag) {
  const auto* at = static_cast<const char*>(data);
  for (int64_t left = bytes; left > 0; left -= kMaxMessageBytes, at += kMaxMessageBytes) {
    MPI_Request request;
    RETURN_IF_MPI_ERROR(MPI_Isend(at, static_cast<int>(std::min(left, kMaxMessageBytes)), MPI_BYTE,
                                  peer, tag, comm_, &request),
                        "send");
    requests_.push_back(request);
  }
  return absl::OkStatus();
}

absl::Status MpiExchange::Wait() {
  BackOff back_off;
  while (!aborted_->load(std::memory_order_relaxed)) {
    int done = 0;
    RETURN_IF_MPI_ERROR(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done,
                                    MPI_STATUSES_IGNORE),
                        "waiting for peers");
    if (done) {
      requests_.clear();
      return absl::OkStatus();
    }
    back_off.Pause();
  }
  Cancel();
  return absl::UnavailableError("the group was aborted");
}

void MpiExchange::Cancel() {
  // Only receives that no message has met yet can be cancelled; the rest is left to MPI, which is
  // why the buffers of an aborted group must live on.
  for (MPI_Request& request : requests_) {
    if (request == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&request);
    MPI_Request_free(&request);
  }
  requests_.clear();
}

}  // namespace tessera
