// A server's outgoing stream to a user. Whoever pushes never waits; a user who does not read is cut
// off, and holds no more than the buffer meanwhile.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>
#include <grpcpp/alarm.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "coordinator/grpc_status.h"
#include "coordinator/write_stream_options.h"

namespace tessera {

template <typename Event>
class WriteStream : public grpc::ServerWriteReactor<Event>,
                    public std::enable_shared_from_this<WriteStream<Event>> {
 public:
  WriteStream(grpc::CallbackServerContext* context, const WriteStreamOptions& options)
      : context_(context), options_(options) {}

  // Keeps the object alive until gRPC is done with the call; to be called right after creation.
  void KeepAlive() { self_ = this->shared_from_this(); }

  // Queues an event; one after the end is dropped. False: the buffer is full and the stream has
  // ended with kResourceExhausted.
  bool PushEvent(Event event) {
    std::lock_guard<std::mutex> lock(mu_);
    if (ending_) return true;
    const auto bytes = static_cast<int64_t>(event.ByteSizeLong());
    if (buffered_bytes_ > 0 && buffered_bytes_ + bytes > options_.max_buffered_bytes) {
      while (queue_.size() > 1) queue_.pop_back();  // the first is being written
      EndLocked(absl::ResourceExhaustedError("the client does not read its stream"));
      return false;
    }
    buffered_bytes_ += bytes;
    queue_.emplace_back(std::move(event), bytes);
    if (!writing_) WriteNext();
    return true;
  }

  // Ends the stream after what is queued; only the first end counts.
  void EndStream(const absl::Status& status) {
    std::lock_guard<std::mutex> lock(mu_);
    if (!ending_) EndLocked(status);
  }

 protected:
  grpc::CallbackServerContext* context() const { return context_; }
  // The user has left, or the deadline has passed. Called without a lock, on gRPC's thread.
  virtual void OnUserGone() = 0;

 private:
  void OnCancel() override { OnUserGone(); }

  void OnWriteDone(bool ok) override {
    std::lock_guard<std::mutex> lock(mu_);
    writing_ = false;
    buffered_bytes_ -= queue_.front().second;
    queue_.pop_front();
    if (!ok) {
      queue_.clear();
      buffered_bytes_ = 0;
    }
    if (!queue_.empty()) {
      WriteNext();
    } else if (ending_) {
      this->Finish(status_);
    }
  }

  void OnDone() override {
    cut_off_.Cancel();
    std::shared_ptr<WriteStream> last = std::move(self_);
  }

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    writing_ = true;
    this->StartWrite(&queue_.front().first);
  }

  void EndLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    ending_ = true;
    status_ = ToGrpcStatus(status);
    if (!writing_) {
      this->Finish(status_);
      return;
    }
    // self_ is set: OnDone comes only after the write. The alarm holds the object, not the call.
    cut_off_.Set(std::chrono::system_clock::now() + options_.flush_grace,
                 [self = this->weak_from_this()](bool fired) {
                   const auto stream = self.lock();
                   if (fired && stream != nullptr) stream->CutOff();
                 });
  }

  void CutOff() {
    std::lock_guard<std::mutex> lock(mu_);
    if (writing_) context_->TryCancel();  // valid: the call is not done while it writes
  }

  grpc::CallbackServerContext* const context_;  // gRPC's, valid until OnDone
  const WriteStreamOptions options_;
  std::shared_ptr<WriteStream> self_;  // released by OnDone
  grpc::Alarm cut_off_;
  std::mutex mu_;
  std::deque<std::pair<Event, int64_t>> queue_ ABSL_GUARDED_BY(mu_);  // the first is being written
  int64_t buffered_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mu_);
};

}  // namespace tessera
