// A client's bidirectional gRPC stream with a reader thread and a writer thread of its own, so that
// neither sending nor receiving ever blocks the caller. Internal to worker/link.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include <absl/status/status.h>
#include <absl/time/time.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include "worker/link/channel.h"
#include "worker/link/outgoing_queue.h"

namespace tessera {

template <typename Out, typename In>
class DuplexStream {
 public:
  using Stream = grpc::ClientReaderWriterInterface<Out, In>;

  struct Handlers {
    std::function<void(const In&)> on_message;  // on the reader thread
    // Once, on the reader thread, when the stream ends by any hand but Stop().
    std::function<void(const absl::Status&)> on_end;
    // Makes a message whenever `period` passes without one to send; may be null.
    std::function<Out()> when_idle;
    absl::Duration period = absl::Seconds(1);
  };

  DuplexStream(std::unique_ptr<grpc::ClientContext> context, std::unique_ptr<Stream> stream,
               int64_t max_queued_bytes)
      : context_(std::move(context)), stream_(std::move(stream)), queue_(max_queued_bytes) {}
  DuplexStream(const DuplexStream&) = delete;
  DuplexStream& operator=(const DuplexStream&) = delete;
  ~DuplexStream() { Stop(); }

  void Start(Handlers handlers) {
    handlers_ = std::move(handlers);
    writer_ = std::thread([this] { WriteLoop(); });
    reader_ = std::thread([this] { ReadLoop(); });
  }

  // A full queue means that the peer has stopped reading: the stream is then cancelled.
  PushResult Send(Out message) {
    const PushResult result = queue_.Push(std::move(message));
    if (result == PushResult::kFull) {
      overflowed_ = true;
      context_->TryCancel();
    }
    return result;
  }

  bool Flush(absl::Duration timeout) { return queue_.Flush(timeout); }

  // Cancels the stream and joins the threads; not from a handler.
  void Stop() {
    stopping_ = true;
    context_->TryCancel();
    queue_.Close();
    if (reader_.joinable()) reader_.join();
  }

 private:
  void WriteLoop() {
    const absl::Duration period = handlers_.when_idle ? handlers_.period : absl::Minutes(1);
    absl::Time next = absl::Now() + period;
    while (!queue_.closed()) {
      std::optional<Out> message = queue_.Pop(next - absl::Now());
      if (!message.has_value() && !queue_.closed() && handlers_.when_idle) {
        message = handlers_.when_idle();
      }
      if (absl::Now() >= next) next = absl::Now() + period;
      if (message.has_value() && !stream_->Write(*message)) queue_.Close();
    }
  }

  void ReadLoop() {
    In message;
    while (stream_->Read(&message)) handlers_.on_message(message);
    queue_.Close();
    writer_.join();  // not a cancel, which would hide the peer's status: the end fails its write
    absl::Status status = ToAbslStatus(stream_->Finish());
    if (stopping_) return;
    if (overflowed_) {
      status = absl::ResourceExhaustedError("the coordinator has stopped reading: queue full");
    } else if (status.ok()) {
      status = absl::UnavailableError("the coordinator ended the stream");
    }
    handlers_.on_end(status);
  }

  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<Stream> stream_;
  OutgoingQueue<Out> queue_;
  Handlers handlers_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> overflowed_{false};
  std::thread writer_;
  std::thread reader_;
};

}  // namespace tessera
