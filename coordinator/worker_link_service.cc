#include "coordinator/worker_link_service.h"

#include <memory>
#include <utility>

#include "coordinator/bidi_stream.h"
#include "proto/cluster.grpc.pb.h"

namespace tessera {
namespace {

constexpr int64_t kMaxQueuedBytes = 64 << 20;

using ControlStream = BidiStream<internal::WorkerReport, internal::WorkerCommand>;
using ServeStream = BidiStream<internal::LeaderMessage, internal::CoordinatorMessage>;

// One rank's control stream: the first report registers it, later ones go to the cluster.
class ControlSession {
 public:
  ControlSession(Cluster& cluster, std::weak_ptr<ControlStream> stream)
      : cluster_(cluster), stream_(std::move(stream)) {}

  void OnMessage(const internal::WorkerReport& report) {
    if (epoch_ != 0) {
      cluster_.OnReport(rank_, report);
      return;
    }
    if (refused_) return;
    const std::shared_ptr<ControlStream> stream = stream_.lock();
    absl::StatusOr<int64_t> epoch =
        absl::FailedPreconditionError("the first report is not a registration");
    if (report.has_register_()) epoch = cluster_.RegisterRank(report.register_(), stream);
    if (!epoch.ok()) {
      refused_ = true;
      stream->Close(epoch.status());
      return;
    }
    epoch_ = *epoch;
    rank_ = report.register_().rank();
  }

  void OnEnd() {
    if (epoch_ != 0) cluster_.OnRankLost(epoch_, rank_, "its control stream ended");
  }

 private:
  Cluster& cluster_;
  std::weak_ptr<ControlStream> stream_;
  int64_t epoch_ = 0;  // 0: not registered
  int32_t rank_ = 0;
  bool refused_ = false;
};

// One leader's stream: a hello, then what its engine brings.
class ServeSession {
 public:
  ServeSession(Cluster& cluster, std::weak_ptr<ServeStream> stream)
      : cluster_(cluster), stream_(std::move(stream)) {}

  void OnMessage(const internal::LeaderMessage& message) {
    if (serving_ != nullptr) {
      serving_->OnMessage(message);
      return;
    }
    if (refused_) return;
    const std::shared_ptr<ServeStream> stream = stream_.lock();
    absl::StatusOr<std::shared_ptr<Serving>> serving =
        absl::FailedPreconditionError("the first message is not a hello");
    if (message.has_hello()) serving = cluster_.OpenServing(message.hello(), stream);
    if (!serving.ok()) {
      refused_ = true;
      stream->Close(serving.status());
      return;
    }
    serving_ = *std::move(serving);
    hello_ = message.hello();
  }

  void OnEnd() {
    if (serving_ != nullptr) cluster_.OnServeEnded(hello_);
  }

 private:
  Cluster& cluster_;
  std::weak_ptr<ServeStream> stream_;
  std::shared_ptr<Serving> serving_;  // null: no hello yet
  internal::ServeHello hello_;
  bool refused_ = false;
};

template <typename Session, typename Stream>
Stream* StartSession(const ServiceContext& services, grpc::CallbackServerContext* context) {
  const auto stream = Stream::Create(context, kMaxQueuedBytes);
  const absl::Status allowed = services.auth.CheckWorker(*context);
  if (!allowed.ok()) {
    stream->Close(allowed);
    return stream.get();
  }
  const auto session = std::make_shared<Session>(services.cluster, stream);
  stream->Start({.on_message = [session](const auto& message) { session->OnMessage(message); },
                 .on_end = [session] { session->OnEnd(); }});
  return stream.get();
}

class WorkerLinkService final : public internal::WorkerLink::CallbackService {
 public:
  explicit WorkerLinkService(const ServiceContext& services) : services_(services) {}

  grpc::ServerBidiReactor<internal::WorkerReport, internal::WorkerCommand>* Control(
      grpc::CallbackServerContext* context) override {
    return StartSession<ControlSession, ControlStream>(services_, context);
  }

  grpc::ServerBidiReactor<internal::LeaderMessage, internal::CoordinatorMessage>* Serve(
      grpc::CallbackServerContext* context) override {
    return StartSession<ServeSession, ServeStream>(services_, context);
  }

 private:
  const ServiceContext& services_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeWorkerLinkService(const ServiceContext& services) {
  return std::make_unique<WorkerLinkService>(services);
}

}  // namespace tessera
