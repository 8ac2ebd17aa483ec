#include "tests/coordinator/coordinator_fixture.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>
#include <grpcpp/health_check_service_interface.h>

#include "tests/coordinator/health_client.h"

namespace tessera::testing {

absl::StatusOr<Plan> FakePlan(const PlanInput& input) {
  Plan plan;
  plan.shape = {.tp = std::max<int64_t>(input.tp, 1), .pp = std::max<int64_t>(input.pp, 1)};
  plan.kv_blocks = 100;
  plan.ranks.resize(static_cast<size_t>(plan.shape.ranks()));
  return plan;
}

std::vector<int32_t> Answer::tokens(int choice) const {
  std::vector<int32_t> ids;
  for (const v1::GenerateEvent& event : events) {
    if (event.choice() != choice) continue;
    for (const v1::GeneratedToken& token : event.tokens()) ids.push_back(token.id());
  }
  return ids;
}

std::string Answer::text(int choice) const {
  std::string joined;
  for (const v1::GenerateEvent& event : events) {
    if (event.choice() == choice) joined += event.text();
  }
  return joined;
}

v1::FinishReason Answer::reason(int choice) const {
  v1::FinishReason found = v1::FINISH_REASON_UNSPECIFIED;
  for (const v1::GenerateEvent& event : events) {
    if (event.choice() == choice && event.finish_reason() != 0) found = event.finish_reason();
  }
  return found;
}

CoordinatorTest::CoordinatorTest() {
  options_.auth.launch_secret = kSecret;
  options_.cluster.sources.dirs["tiny"] = absl::StrCat(TESSERA_TEST_DATA, "/tiny-qwen2");
}

CoordinatorTest::~CoordinatorTest() {
  coordinator_.reset();  // first: its end must not depend on how workers end
  workers_.clear();
}

void CoordinatorTest::StartCoordinator() {
  auto coordinator = Coordinator::Start(options_, FakePlan, SystemClock());
  ASSERT_TRUE(coordinator.ok()) << coordinator.status();
  coordinator_ = *std::move(coordinator);
  inference_ = v1::Inference::NewStub(Channel());
  cluster_ = v1::Cluster::NewStub(Channel());
}

std::shared_ptr<grpc::Channel> CoordinatorTest::Channel() const {
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(coordinator_->address(), grpc::InsecureChannelCredentials(),
                                   args);
}

LinkOptions CoordinatorTest::Link() const {
  return {.address = coordinator_->address(), .secret = kSecret, .connect_timeout = kPatience};
}

void CoordinatorTest::StartPool(int ranks) {
  for (int rank = 0; rank < ranks; ++rank) {
    auto worker = FakeWorker::Start({.link = Link(), .rank = rank, .ranks = ranks});
    ASSERT_TRUE(worker.ok()) << worker.status();
    workers_.push_back(*std::move(worker));
  }
}

grpc::Status CoordinatorTest::Load(const v1::LoadModelRequest& request,
                                   std::vector<v1::LoadModelEvent>* events) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kPatience));
  const auto reader = cluster_->LoadModel(&context, request);
  v1::LoadModelEvent event;
  while (reader->Read(&event)) {
    if (events != nullptr) events->push_back(event);
  }
  return reader->Finish();
}

grpc::Status CoordinatorTest::LoadTiny(int tp, std::vector<v1::LoadModelEvent>* events) {
  v1::LoadModelRequest request;
  request.set_name("tiny");
  request.mutable_options()->set_tp(tp);
  request.mutable_options()->set_pp(1);
  return Load(request, events);
}

void CoordinatorTest::StartServing() {
  StartCoordinator();
  StartPool(1);
  const grpc::Status status = LoadTiny();
  ASSERT_TRUE(status.ok()) << status.error_message();
}

bool CoordinatorTest::Healthy(const std::string& service) const {
  return CheckHealth(*Channel(), service);
}

v1::GenerateRequest CoordinatorTest::Request(std::vector<int32_t> prompt) {
  v1::GenerateRequest request;
  request.set_model("tiny");
  request.mutable_token_ids()->mutable_ids()->Assign(prompt.begin(), prompt.end());
  return request;
}

Answer CoordinatorTest::Call::Finish() {
  Answer answer;
  v1::GenerateEvent event;
  while (reader->Read(&event)) answer.events.push_back(event);
  answer.status = reader->Finish();
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto retry = trailers.find("retry-after-ms");
  if (retry != trailers.end()) {
    answer.retry_after_ms = std::string(retry->second.data(), retry->second.size());
  }
  return answer;
}

std::unique_ptr<CoordinatorTest::Call> CoordinatorTest::Begin(
    const v1::GenerateRequest& request, std::chrono::milliseconds deadline) const {
  auto call = std::make_unique<Call>();
  call->context.set_deadline(std::chrono::system_clock::now() + deadline);
  call->reader = inference_->Generate(&call->context, request);
  return call;
}

Answer CoordinatorTest::Generate(const v1::GenerateRequest& request) const {
  return Begin(request)->Finish();
}

}  // namespace tessera::testing
