#include "worker/link/control_link.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include <absl/base/thread_annotations.h>
#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>

#include "common/log.h"
#include "proto/cluster.grpc.pb.h"
#include "worker/link/channel.h"
#include "worker/link/duplex_stream.h"

namespace tessera {
namespace {

constexpr int64_t kMaxQueuedBytes = 16 << 20;
constexpr absl::Duration kRetryPause = absl::Milliseconds(200);

}  // namespace

struct ControlLink::Impl {
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<internal::WorkerLink::Stub> stub;
  ControlEvents events;
  const std::atomic<int64_t>* steps = nullptr;
  std::atomic<int64_t> epoch{0};

  std::mutex mu;
  std::condition_variable changed;
  std::optional<absl::Status> ended ABSL_GUARDED_BY(mu);  // before Welcome

  // Last: its threads use the members above.
  std::unique_ptr<DuplexStream<internal::WorkerReport, internal::WorkerCommand>> stream;

  void Open(const LinkOptions& options);
  void OnMessage(const internal::WorkerCommand& command);
  void OnEnd(const absl::Status& status);
  // What came of the registration: OK after Welcome.
  absl::Status WaitForWelcome(absl::Time deadline);
};

void ControlLink::Impl::Open(const LinkOptions& options) {
  {
    std::lock_guard<std::mutex> lock(mu);
    ended.reset();
  }
  auto context = MakeContext(options);
  auto call = stub->Control(context.get());
  stream = std::make_unique<DuplexStream<internal::WorkerReport, internal::WorkerCommand>>(
      std::move(context), std::move(call), kMaxQueuedBytes);
  stream->Start({
      .on_message = [this](const internal::WorkerCommand& command) { OnMessage(command); },
      .on_end = [this](const absl::Status& status) { OnEnd(status); },
      .when_idle =
          [this] {
            internal::WorkerReport report;
            report.set_epoch(epoch);
            report.mutable_heartbeat()->set_steps(steps->load(std::memory_order_relaxed));
            return report;
          },
      .period = options.heartbeat_period,
  });
}

void ControlLink::Impl::OnMessage(const internal::WorkerCommand& command) {
  if (!command.has_welcome()) {
    events.on_command(command);
    return;
  }
  std::lock_guard<std::mutex> lock(mu);
  epoch = command.welcome().epoch();
  changed.notify_all();
}

void ControlLink::Impl::OnEnd(const absl::Status& status) {
  if (epoch != 0) {
    events.on_lost(status);
    return;
  }
  std::lock_guard<std::mutex> lock(mu);
  ended = status;
  changed.notify_all();
}

absl::Status ControlLink::Impl::WaitForWelcome(absl::Time deadline) {
  std::unique_lock<std::mutex> lock(mu);
  const auto answered = [this] { return epoch != 0 || ended.has_value(); };
  if (!changed.wait_until(lock, absl::ToChronoTime(deadline), answered)) {
    return absl::DeadlineExceededError("coordinator: no answer to the registration");
  }
  return epoch != 0 ? absl::OkStatus() : *ended;
}

absl::StatusOr<std::unique_ptr<ControlLink>> ControlLink::Connect(const LinkOptions& options,
                                                                  const internal::Register& self,
                                                                  const std::atomic<int64_t>& steps,
                                                                  ControlEvents events) {
  const absl::Time deadline = absl::Now() + options.connect_timeout;
  auto impl = std::make_unique<Impl>();
  impl->channel = MakeChannel(options);
  impl->stub = internal::WorkerLink::NewStub(impl->channel);
  impl->events = std::move(events);
  impl->steps = &steps;
  std::unique_ptr<ControlLink> link(new ControlLink(std::move(impl)));
  while (true) {
    absl::Status status = WaitForConnection(*link->impl_->channel, options, deadline);
    if (!status.ok()) return status;
    link->impl_->Open(options);
    internal::WorkerReport report;
    *report.mutable_register_() = self;
    link->impl_->stream->Send(std::move(report));
    status = link->impl_->WaitForWelcome(deadline);
    if (status.ok()) return link;
    link->impl_->stream.reset();
    if (!absl::IsUnavailable(status) || absl::Now() + kRetryPause >= deadline) return status;
    LogInfo("coordinator ", options.address, ": ", status.message(), "; trying again");
    absl::SleepFor(kRetryPause);
  }
}

ControlLink::ControlLink(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlLink::~ControlLink() { Stop(); }

void ControlLink::Stop() {
  if (impl_->stream != nullptr) impl_->stream->Stop();
}

int64_t ControlLink::epoch() const { return impl_->epoch; }

void ControlLink::Report(internal::WorkerReport report) {
  report.set_epoch(impl_->epoch);
  impl_->stream->Send(std::move(report));
}

bool ControlLink::Flush(absl::Duration timeout) { return impl_->stream->Flush(timeout); }

}  // namespace tessera
