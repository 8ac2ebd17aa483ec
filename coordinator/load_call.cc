#include "coordinator/load_call.h"

#include <memory>
#include <utility>

#include "coordinator/model_record.h"
#include "coordinator/write_stream.h"

namespace tessera {
namespace {

class LoadCall final : public WriteStream<v1::LoadModelEvent>, public LoadObserver {
 public:
  LoadCall(const ServiceContext& services, grpc::CallbackServerContext* context)
      : WriteStream(context, services.streams) {}

  void OnEvent(const v1::LoadModelEvent& event) override { PushEvent(event); }
  void OnEnd(const absl::Status& status) override { EndStream(status); }

 private:
  void OnUserGone() override { EndStream(absl::CancelledError("the client has left")); }
};

}  // namespace

grpc::ServerWriteReactor<v1::LoadModelEvent>* StartLoad(const ServiceContext& services,
                                                        grpc::CallbackServerContext* context,
                                                        const v1::LoadModelRequest* request) {
  auto call = std::make_shared<LoadCall>(services, context);
  call->KeepAlive();
  const absl::Status allowed = services.auth.CheckUser(*context);
  Cluster& cluster = services.cluster;
  if (!allowed.ok()) {
    call->OnEnd(allowed);
  } else if (!services.executor.Run(
                 [&cluster, call, copy = *request] { cluster.Load(copy, call); })) {
    call->OnEnd(absl::ResourceExhaustedError("too many calls wait for a thread"));
  }
  return call.get();
}

}  // namespace tessera
