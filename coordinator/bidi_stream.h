// A server's bidirectional stream whose sender never waits: messages go through a bounded queue.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include <absl/base/thread_annotations.h>
#include <absl/status/status.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "coordinator/grpc_status.h"
#include "coordinator/out_stream.h"

namespace tessera {

template <typename In, typename Out>
class BidiStream final : public grpc::ServerBidiReactor<In, Out>,
                         public OutStream<Out>,
                         public std::enable_shared_from_this<BidiStream<In, Out>> {
 public:
  // Called by gRPC's threads, one at a time, with no lock held.
  struct Handlers {
    std::function<void(const In&)> on_message;
    std::function<void()> on_end;  // once: nothing more is read, whoever ended the stream
  };

  // Lives until gRPC is done with the call and the last shared_ptr is gone.
  static std::shared_ptr<BidiStream> Create(grpc::CallbackServerContext* context,
                                            int64_t max_queued_bytes) {
    std::shared_ptr<BidiStream> stream(new BidiStream(context, max_queued_bytes));
    stream->self_ = stream;
    return stream;
  }

  void Start(Handlers handlers) {
    handlers_ = std::move(handlers);
    this->StartRead(&incoming_);
  }

  bool Send(const Out& message) override {
    std::lock_guard<std::mutex> lock(mu_);
    if (closing_) return false;
    const auto bytes = static_cast<int64_t>(message.ByteSizeLong());
    if (queued_bytes_ + bytes > max_queued_bytes_) {
      closing_ = true;
      status_ = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the peer does not read");
      context_->TryCancel();  // completes the write under way
      if (!writing_) FinishNow();
      return false;
    }
    queued_bytes_ += bytes;
    queue_.emplace_back(message, bytes);
    if (!writing_) WriteNext();
    return true;
  }

  void Close(const absl::Status& status) override {
    std::lock_guard<std::mutex> lock(mu_);
    if (closing_) return;
    closing_ = true;
    status_ = ToGrpcStatus(status);
    if (!writing_) FinishNow();
  }

 private:
  BidiStream(grpc::CallbackServerContext* context, int64_t max_queued_bytes)
      : context_(context), max_queued_bytes_(max_queued_bytes) {}

  void OnReadDone(bool ok) override {
    if (ok) {
      handlers_.on_message(incoming_);
      this->StartRead(&incoming_);
      return;
    }
    handlers_.on_end();
    Close(absl::OkStatus());
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard<std::mutex> lock(mu_);
    writing_ = false;
    queued_bytes_ -= queue_.front().second;
    queue_.pop_front();
    if (!ok) {
      queue_.clear();
      queued_bytes_ = 0;
    }
    if (!queue_.empty()) {
      WriteNext();
    } else if (closing_) {
      FinishNow();
    }
  }

  void OnDone() override {
    std::shared_ptr<BidiStream> last = std::move(self_);
    handlers_ = {};
  }

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    writing_ = true;
    this->StartWrite(&queue_.front().first);
  }
  void FinishNow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { this->Finish(status_); }

  grpc::CallbackServerContext* const context_;  // gRPC's, valid until OnDone
  const int64_t max_queued_bytes_;
  Handlers handlers_;
  In incoming_;
  std::shared_ptr<BidiStream> self_;  // released by OnDone
  std::mutex mu_;
  std::deque<std::pair<Out, int64_t>> queue_ ABSL_GUARDED_BY(mu_);  // the first is being written
  int64_t queued_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mu_);
};

}  // namespace tessera
