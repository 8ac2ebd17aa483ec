#include "coordinator/inference_service.h"

#include "common/status_macros.h"
#include "coordinator/generate_call.h"
#include "coordinator/request_check.h"
#include "coordinator/unary_call.h"
#include "proto/inference.grpc.pb.h"

namespace tessera {
namespace {

// Ids that one Detokenize call may hold; the longest context there is.
constexpr int kMaxDetokenizeIds = 1 << 24;

absl::Status Tokenize(const Cluster& cluster, const v1::TokenizeRequest& request,
                      v1::TokenizeResponse& response) {
  ASSIGN_OR_RETURN(const auto files, cluster.FindFiles(request.model()));
  std::vector<int32_t> ids;
  if (request.has_chat()) {
    ASSIGN_OR_RETURN(const auto messages, CheckChat(request.chat()));
    ASSIGN_OR_RETURN(ids, files->text.EncodeChat(messages));
  } else {  // no input is an empty text
    const auto affixes =
        request.add_special_tokens() ? SpecialAffixes::kAdd : SpecialAffixes::kNone;
    ASSIGN_OR_RETURN(ids, files->text.Encode(request.text(), affixes));
  }
  response.mutable_ids()->Assign(ids.begin(), ids.end());
  return absl::OkStatus();
}

absl::Status Detokenize(const Cluster& cluster, const v1::DetokenizeRequest& request,
                        v1::DetokenizeResponse& response) {
  ASSIGN_OR_RETURN(const auto files, cluster.FindFiles(request.model()));
  if (request.ids_size() > kMaxDetokenizeIds) {
    return absl::InvalidArgumentError(
        absl::StrCat("ids: ", request.ids_size(), " ids; at most ", kMaxDetokenizeIds));
  }
  RETURN_IF_ERROR(CheckIds("ids", request.ids(), files->config.vocab));
  const auto special = request.skip_special_tokens() ? DecodeSpecial::kSkip : DecodeSpecial::kKeep;
  ASSIGN_OR_RETURN(*response.mutable_text(), files->text.Decode(request.ids(), special));
  return absl::OkStatus();
}

class InferenceService final : public v1::Inference::CallbackService {
 public:
  explicit InferenceService(const ServiceContext& services) : services_(services) {}

  grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    return StartGenerate(services_, context, request);
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return RunUnary(services_, context, [this, request, response] {
      return tessera::Tokenize(services_.cluster, *request, *response);
    });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    return RunUnary(services_, context, [this, request, response] {
      return tessera::Detokenize(services_.cluster, *request, *response);
    });
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    return RunUnary(services_, context, [this, response] {
      *response = services_.cluster.ListModels();
      return absl::OkStatus();
    });
  }

 private:
  const ServiceContext& services_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeInferenceService(const ServiceContext& services) {
  return std::make_unique<InferenceService>(services);
}

}  // namespace tessera
