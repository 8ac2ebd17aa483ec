#include "worker/link/serve_link.h"

#include <utility>

#include <absl/time/clock.h>

#include "common/status_macros.h"
#include "proto/cluster.grpc.pb.h"
#include "worker/link/channel.h"
#include "worker/link/duplex_stream.h"

namespace tessera {
namespace {

constexpr int64_t kMaxQueuedBytes = 64 << 20;

}  // namespace

struct ServeLink::Impl {
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<internal::WorkerLink::Stub> stub;
  std::unique_ptr<DuplexStream<internal::LeaderMessage, internal::CoordinatorMessage>> stream;
};

absl::StatusOr<std::unique_ptr<ServeLink>> ServeLink::Connect(const LinkOptions& options,
                                                              const ServeTarget& target,
                                                              ServeEvents events) {
  auto impl = std::make_unique<Impl>();
  impl->channel = MakeChannel(options);
  RETURN_IF_ERROR(
      WaitForConnection(*impl->channel, options, absl::Now() + options.connect_timeout));
  impl->stub = internal::WorkerLink::NewStub(impl->channel);
  auto context = MakeContext(options);
  auto call = impl->stub->Serve(context.get());
  impl->stream =
      std::make_unique<DuplexStream<internal::LeaderMessage, internal::CoordinatorMessage>>(
          std::move(context), std::move(call), kMaxQueuedBytes);
  internal::LeaderMessage hello;
  hello.mutable_hello()->set_epoch(target.epoch);
  hello.mutable_hello()->set_instance(target.instance);
  impl->stream->Send(std::move(hello));
  impl->stream->Start({.on_message = std::move(events.on_message),
                       .on_end = std::move(events.on_lost),
                       .when_idle = nullptr});
  return std::unique_ptr<ServeLink>(new ServeLink(std::move(impl)));
}

ServeLink::ServeLink(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ServeLink::~ServeLink() = default;

absl::Status ServeLink::Send(internal::LeaderMessage message) {
  switch (impl_->stream->Send(std::move(message))) {
    case PushResult::kQueued:
      return absl::OkStatus();
    case PushResult::kFull:
      return absl::ResourceExhaustedError("serve link: queue full, the coordinator does not read");
    case PushResult::kClosed:
      break;
  }
  return absl::UnavailableError("serve link: the stream has ended");
}

}  // namespace tessera
