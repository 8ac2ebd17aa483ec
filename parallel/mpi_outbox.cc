#include "parallel/mpi_outbox.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "common/log.h"
#include "common/status_macros.h"
#include "parallel/mpi_status.h"

namespace tessera {
namespace {

constexpr std::chrono::seconds kLastWait(1);

}  // namespace

MpiOutbox::~MpiOutbox() {
  int finalized = 0;
  if (MPI_Finalized(&finalized) != MPI_SUCCESS || finalized != 0) return;
  const auto deadline = std::chrono::steady_clock::now() + kLastWait;
  while (!under_way_.empty() && std::chrono::steady_clock::now() < deadline) {
    if (!Reap().ok()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (under_way_.empty()) return;
  LogWarning(under_way_.size(), " messages to a peer were never taken");
  static_cast<void>(new std::deque<Message>(std::move(under_way_)));
}

absl::Status MpiOutbox::Post(const void* data, int64_t bytes, int peer, int tag) {
  RETURN_IF_ERROR(Reap());
  const char* at = static_cast<const char*>(data);
  for (const char* end = at + bytes; at < end; at += kPieceBytes) {
    Message& message = under_way_.emplace_back();
    message.data.assign(at, std::min(at + kPieceBytes, end));
    RETURN_IF_MPI_ERROR(MPI_Isend(message.data.data(), static_cast<int>(message.data.size()),
                                  MPI_BYTE, peer, tag, comm_, &message.request),
                        "sending a small message");
  }
  return absl::OkStatus();
}

absl::Status MpiOutbox::Reap() {
  while (!under_way_.empty()) {
    int done = 0;
    RETURN_IF_MPI_ERROR(MPI_Test(&under_way_.front().request, &done, MPI_STATUS_IGNORE),
                        "completing a small message");
    if (done == 0) return absl::OkStatus();
    under_way_.pop_front();
  }
  return absl::OkStatus();
}

}  // namespace tessera
