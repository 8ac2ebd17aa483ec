#include "tests/client/fake_cluster.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>

#include "common/check.h"

namespace tessera::testing {

FakeCluster::FakeCluster() {
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(static_cast<v1::Inference::Service*>(this));
  builder.RegisterService(static_cast<v1::Cluster::Service*>(this));
  server_ = builder.BuildAndStart();
  TESSERA_CHECK(server_ != nullptr && port > 0);
  address_ = absl::StrCat("127.0.0.1:", port);
}

FakeCluster::~FakeCluster() { server_->Shutdown(); }

v1::ModelInfo FakeCluster::Info() const {
  v1::ModelInfo info;
  info.set_name("tiny");
  info.set_architecture("Qwen2ForCausalLM");
  info.set_format("bfloat16");
  info.set_context(64);
  info.set_vocab(100);
  info.set_has_tokenizer(has_tokenizer);
  info.set_state(model_state);
  info.set_checkpoint("Tiny-Instruct");
  info.set_load_format("dummy");
  info.set_dtype("bfloat16");
  return info;
}

grpc::Status FakeCluster::Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                                   grpc::ServerWriter<v1::GenerateEvent>* writer) {
  generate_request = *request;
  ++generate_calls;
  const auto found = context->client_metadata().find("authorization");
  if (found != context->client_metadata().end())
    authorization = std::string(found->second.data(), found->second.size());
  if (!retry_after_ms.empty()) context->AddTrailingMetadata("retry-after-ms", retry_after_ms);
  if (!events.empty() || !status.ok()) {
    for (const v1::GenerateEvent& event : events) writer->Write(event);
    return status;
  }
  const int tokens = request->has_max_tokens() ? request->max_tokens() : 3;
  for (int i = 0; i < tokens; ++i) {
    v1::GenerateEvent event;
    event.add_tokens()->set_id(i);
    event.set_text(absl::StrCat(i == 0 ? "" : " ", "t", i));
    if (i == 0) *event.mutable_prompt_tokens() = request->token_ids().ids();
    if (i + 1 == tokens) event.set_finish_reason(v1::FINISH_REASON_LENGTH);
    writer->Write(event);
    while (hang && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
  }
  return grpc::Status::OK;
}

grpc::Status FakeCluster::Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                                   v1::TokenizeResponse* response) {
  tokenize_request = *request;
  for (const char c : request->text()) response->add_ids(static_cast<unsigned char>(c));
  return status;
}

grpc::Status FakeCluster::Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                                     v1::DetokenizeResponse* response) {
  for (const int32_t id : request->ids())
    response->mutable_text()->push_back(static_cast<char>(id));
  return status;
}

grpc::Status FakeCluster::ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                                     v1::ListModelsResponse* response) {
  *response->add_models() = Info();
  return grpc::Status::OK;
}

grpc::Status FakeCluster::LoadModel(grpc::ServerContext*, const v1::LoadModelRequest* request,
                                    grpc::ServerWriter<v1::LoadModelEvent>* writer) {
  load_request = *request;
  v1::LoadModelEvent event;
  event.set_state("PLANNED");
  event.mutable_plan()->set_gpus(2);
  event.mutable_plan()->set_tp(2);
  event.mutable_plan()->set_pp(1);
  event.mutable_plan()->add_warnings("context 9 is past the model's 8 positions");
  writer->Write(event);
  if (!status.ok()) return status;
  event = {};
  event.set_state("LOADING");
  event.set_loaded_bytes(50);
  event.set_total_bytes(100);
  writer->Write(event);
  event = {};
  event.set_state("READY");
  v1::RankMemory& memory = *event.add_memory();
  memory.set_rank(1);
  memory.set_predicted_bytes(1000);
  memory.set_measured_bytes(1001);
  writer->Write(event);
  return grpc::Status::OK;
}

grpc::Status FakeCluster::UnloadModel(grpc::ServerContext*, const v1::UnloadModelRequest*,
                                      v1::UnloadModelResponse*) {
  return status;
}

grpc::Status FakeCluster::GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                                    v1::GetStatusResponse* response) {
  response->set_version("9.9");
  response->set_pool_ranks(2);
  v1::RankStatus& rank = *response->add_ranks();
  rank.set_rank(0);
  rank.set_device("NVIDIA Fake");
  rank.set_model("tiny");
  rank.set_driver_version("580.65.06");
  rank.set_runtime_version("13.0");
  rank.set_commit("0123456789ab");
  v1::ModelStatus& model = *response->add_models();
  *model.mutable_info() = Info();
  model.add_ranks(0);
  model.set_tp(1);
  model.set_pp(1);
  if (model_state == "READY") {
    model.set_running(1);
    model.set_waiting(2);
    model.set_kv_blocks_free(3);
    model.set_steps(4);
  } else {
    model.set_failure("rank 1 was lost");
  }
  v1::RankMemory& memory = *model.add_memory();
  memory.set_predicted_bytes(1 << 30);
  memory.set_measured_bytes(1 << 29);
  return grpc::Status::OK;
}

grpc::Status FakeCluster::Drain(grpc::ServerContext*, const v1::DrainRequest* request,
                                v1::DrainResponse*) {
  drain_request = *request;
  return grpc::Status::OK;
}

}  // namespace tessera::testing
