#include "coordinator/cluster_service.h"

#include <absl/strings/str_cat.h>

#include "common/status_macros.h"
#include "coordinator/load_call.h"
#include "coordinator/unary_call.h"
#include "proto/inference.grpc.pb.h"

namespace tessera {
namespace {

constexpr int64_t kDefaultGraceMs = 30'000;
constexpr int64_t kMaxGraceMs = 24 * 3'600'000;

class ClusterService final : public v1::Cluster::CallbackService {
 public:
  ClusterService(const ServiceContext& services, DrainGate& drain)
      : services_(services), drain_(drain) {}

  grpc::ServerUnaryReactor* Plan(grpc::CallbackServerContext* context,
                                 const v1::PlanRequest* request,
                                 v1::PlanResponse* response) override {
    return RunUnary(services_, context, [this, request, response]() -> absl::Status {
      ASSIGN_OR_RETURN(*response, services_.cluster.MakePlan(*request));
      return absl::OkStatus();
    });
  }

  grpc::ServerWriteReactor<v1::LoadModelEvent>* LoadModel(
      grpc::CallbackServerContext* context, const v1::LoadModelRequest* request) override {
    return StartLoad(services_, context, request);
  }

  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context,
                                        const v1::UnloadModelRequest* request,
                                        v1::UnloadModelResponse*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const absl::Status allowed = services_.auth.CheckUser(*context);
    if (allowed.ok()) {
      services_.cluster.Unload(request->name(), [reactor](const absl::Status& status) {
        reactor->Finish(ToGrpcStatus(status));
      });
    } else {
      reactor->Finish(ToGrpcStatus(allowed));
    }
    return reactor;
  }

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest*,
                                      v1::GetStatusResponse* response) override {
    return RunUnary(services_, context, [this, response] {
      *response = services_.cluster.GetStatus();
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request, v1::DrainResponse*) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    absl::Status status = services_.auth.CheckUser(*context);
    const int64_t grace_ms = request->grace_ms() == 0 ? kDefaultGraceMs : request->grace_ms();
    if (status.ok() && (grace_ms < 0 || grace_ms > kMaxGraceMs)) {
      status = absl::InvalidArgumentError(
          absl::StrCat("grace_ms: ", grace_ms, " is not in [0, ", kMaxGraceMs, "]"));
    }
    if (status.ok()) {
      drain_.Request(absl::Milliseconds(grace_ms),
                     [reactor] { reactor->Finish(grpc::Status::OK); });
    } else {
      reactor->Finish(ToGrpcStatus(status));
    }
    return reactor;
  }

 private:
  const ServiceContext& services_;
  DrainGate& drain_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeClusterService(const ServiceContext& services,
                                                  DrainGate& drain) {
  return std::make_unique<ClusterService>(services, drain);
}

}  // namespace tessera
