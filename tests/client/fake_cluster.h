// A coordinator that answers from a script, in this process, over a real gRPC server.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "proto/inference.grpc.pb.h"

namespace tessera::testing {

// One model, "tiny", with a vocabulary of 100. Scripts are set before calls come in.
class FakeCluster final : public v1::Inference::Service, public v1::Cluster::Service {
 public:
  FakeCluster();
  ~FakeCluster() override;

  const std::string& address() const { return address_; }

  // What Generate streams; empty: one event per token wanted, ids from 0, text "t0 t1 ...".
  std::vector<v1::GenerateEvent> events;
  grpc::Status status;         // how calls end
  std::string retry_after_ms;  // trailing metadata of Generate; empty: none
  bool hang = false;           // Generate waits for the cancel after its first event
  bool has_tokenizer = true;
  std::string model_state = "READY";

  // The last request of each kind, and the authorization it came with.
  v1::GenerateRequest generate_request;
  v1::TokenizeRequest tokenize_request;
  v1::LoadModelRequest load_request;
  v1::DrainRequest drain_request;
  std::string authorization;
  int generate_calls = 0;

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateEvent>* writer) override;
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override;
  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override;
  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                          v1::ListModelsResponse* response) override;
  grpc::Status LoadModel(grpc::ServerContext*, const v1::LoadModelRequest* request,
                         grpc::ServerWriter<v1::LoadModelEvent>* writer) override;
  grpc::Status UnloadModel(grpc::ServerContext*, const v1::UnloadModelRequest*,
                           v1::UnloadModelResponse*) override;
  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                         v1::GetStatusResponse* response) override;
  grpc::Status Drain(grpc::ServerContext*, const v1::DrainRequest* request,
                     v1::DrainResponse*) override;

 private:
  v1::ModelInfo Info() const;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace tessera::testing
