// The coordinator from the outside: real gRPC on both sides, scripted engines.
#include "coordinator/coordinator.h"

#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/coordinator_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(CoordinatorTest, LoadTellsThePlanThenTheMemory) {
  StartCoordinator();
  StartPool(2);
  std::vector<v1::LoadModelEvent> events;
  ASSERT_TRUE(LoadTiny(/*tp=*/2, &events).ok());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].state(), "PLANNED");
  EXPECT_EQ(events[0].plan().tp(), 2);
  EXPECT_EQ(events[1].state(), "READY");
  ASSERT_EQ(events[1].memory_size(), 2);
  EXPECT_EQ(events[1].memory(1).rank(), 1);
  EXPECT_EQ(events[1].memory(1).measured_bytes(), 101);
}

TEST_F(CoordinatorTest, HealthIsServingOnlyOnceTheWeightsAreIn) {
  StartCoordinator();
  StartPool(1);
  EXPECT_FALSE(Healthy(""));
  EXPECT_FALSE(Healthy("tessera.v1.Inference"));
  EXPECT_FALSE(Healthy("model/tiny"));
  ASSERT_TRUE(LoadTiny().ok());
  EXPECT_TRUE(Healthy(""));
  EXPECT_TRUE(Healthy("tessera.v1.Inference"));
  EXPECT_TRUE(Healthy("model/tiny"));
}

TEST_F(CoordinatorTest, TokensOfTheLeaderReachTheClientInOrder) {
  StartServing();
  const auto call = Begin(Request({10, 11}));
  const internal::Submit submit = workers_[0]->WaitForSubmit(0);
  EXPECT_THAT(submit.prompt(), ElementsAre(10, 11));
  workers_[0]->SendTokens(submit.sequence(), {20});
  workers_[0]->SendTokens(submit.sequence(), {21, 22}, v1::FINISH_REASON_LENGTH);
  const Answer answer = call->Finish();
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_THAT(answer.events[0].prompt_tokens(), ElementsAre(10, 11));
  EXPECT_FALSE(answer.events[0].request_id().empty());
  EXPECT_THAT(answer.tokens(), ElementsAre(20, 21, 22));
  EXPECT_EQ(answer.reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.events.back().usage().prompt_tokens(), 2);
  EXPECT_EQ(answer.events.back().usage().completion_tokens(), 3);
}

TEST_F(CoordinatorTest, ChoicesAreSequencesWithSeedsInARow) {
  StartServing();
  v1::GenerateRequest request = Request();
  request.set_choices(3);
  request.mutable_sampling()->set_seed(40);
  const auto call = Begin(request);
  std::set<uint64_t> seeds;
  for (size_t i = 0; i < 3; ++i) {
    const internal::Submit submit = workers_[0]->WaitForSubmit(i);
    seeds.insert(submit.sampling().seed());
    workers_[0]->SendTokens(submit.sequence(), {static_cast<int32_t>(submit.sampling().seed())},
                            v1::FINISH_REASON_LENGTH);
  }
  EXPECT_THAT(seeds, ElementsAre(40, 41, 42));
  const Answer answer = call->Finish();
  ASSERT_TRUE(answer.status.ok());
  for (int choice = 0; choice < 3; ++choice) {
    EXPECT_THAT(answer.tokens(choice), ElementsAre(40 + choice));
    EXPECT_EQ(answer.reason(choice), v1::FINISH_REASON_LENGTH);
  }
}

TEST_F(CoordinatorTest, StopStringEndsTheChoiceAndTheSequence) {
  StartServing();
  v1::TokenizeRequest tokenize;
  tokenize.set_model("tiny");
  tokenize.set_text("one two three");
  grpc::ClientContext context;
  v1::TokenizeResponse ids;
  ASSERT_TRUE(inference_->Tokenize(&context, tokenize, &ids).ok());
  v1::GenerateRequest request = Request();
  request.add_stop("two");
  const auto call = Begin(request);
  const internal::Submit submit = workers_[0]->WaitForSubmit(0);
  workers_[0]->SendTokens(submit.sequence(), {ids.ids().begin(), ids.ids().end()});
  const Answer answer = call->Finish();
  ASSERT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.text(), "one ");
  EXPECT_EQ(answer.reason(), v1::FINISH_REASON_STOP);
  EXPECT_LT(answer.tokens().size(), static_cast<size_t>(ids.ids_size()));
  EXPECT_TRUE(workers_[0]->WaitForCancel(submit.sequence()));
}

TEST_F(CoordinatorTest, TextPromptIsTokenized) {
  StartServing();
  v1::GenerateRequest request = Request();
  request.set_text("hello");
  const auto call = Begin(request);
  const internal::Submit submit = workers_[0]->WaitForSubmit(0);
  EXPECT_GT(submit.prompt_size(), 0);
  EXPECT_THAT(submit.stop_ids(), ElementsAre(4093));  // eos of generation_config.json
}

TEST_F(CoordinatorTest, ChatPromptGoesThroughTheTemplate) {
  StartServing();
  v1::TokenizeRequest request;
  request.set_model("tiny");
  v1::ChatMessage& message = *request.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("hello");
  grpc::ClientContext context;
  v1::TokenizeResponse ids;
  const grpc::Status status = inference_->Tokenize(&context, request, &ids);
  ASSERT_TRUE(status.ok()) << status.error_message();
  v1::DetokenizeRequest back;
  back.set_model("tiny");
  *back.mutable_ids() = ids.ids();
  grpc::ClientContext back_context;
  v1::DetokenizeResponse text;
  ASSERT_TRUE(inference_->Detokenize(&back_context, back, &text).ok());
  EXPECT_THAT(text.text(), HasSubstr("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"));
}

TEST_F(CoordinatorTest, UnknownModelIsNotFound) {
  StartServing();
  v1::GenerateRequest request = Request();
  request.set_model("other");
  const Answer answer = Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::NOT_FOUND);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("\"other\""));
}

TEST_F(CoordinatorTest, BadRequestsAreRefusedAndNeighboursGoOn) {
  StartServing();
  const auto neighbour = Begin(Request());
  const internal::Submit submit = workers_[0]->WaitForSubmit(0);
  EXPECT_EQ(Generate(Request({-1})).status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(Generate(Request({})).status.error_code(), grpc::INVALID_ARGUMENT);
  workers_[0]->SendTokens(submit.sequence(), {7}, v1::FINISH_REASON_LENGTH);
  EXPECT_THAT(neighbour->Finish().tokens(), ElementsAre(7));
}

TEST_F(CoordinatorTest, CancelReachesTheLeader) {
  StartServing();
  const auto call = Begin(Request());
  const internal::Submit submit = workers_[0]->WaitForSubmit(0);
  call->context.TryCancel();
  EXPECT_EQ(call->Finish().status.error_code(), grpc::CANCELLED);
  EXPECT_TRUE(workers_[0]->WaitForCancel(submit.sequence()));
}

TEST_F(CoordinatorTest, DeadlineReachesTheLeader) {
  StartServing();
  const auto call = Begin(Request(), std::chrono::milliseconds(300));
  const internal::Submit submit = workers_[0]->WaitForSubmit(0);
  EXPECT_EQ(call->Finish().status.error_code(), grpc::DEADLINE_EXCEEDED);
  EXPECT_TRUE(workers_[0]->WaitForCancel(submit.sequence()));
}

TEST_F(CoordinatorTest, VanishedClientIsCancelledAtTheLeader) {
  StartServing();
  auto channel = Channel();
  auto stub = v1::Inference::NewStub(channel);
  auto context = std::make_unique<grpc::ClientContext>();
  auto reader = stub->Generate(context.get(), Request());
  const internal::Submit submit = workers_[0]->WaitForSubmit(0);
  reader.reset();  // gone without a word but the reset of its stream
  context.reset();
  stub.reset();
  channel.reset();
  EXPECT_TRUE(workers_[0]->WaitForCancel(submit.sequence()));
}

TEST_F(CoordinatorTest, FullQueueIsRefusedWithARetryHint) {
  options_.cluster.queue.requests = 2;
  StartServing();
  const auto first = Begin(Request());
  const auto second = Begin(Request());
  workers_[0]->WaitForSubmit(1);
  const Answer refused = Generate(Request());
  EXPECT_EQ(refused.status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused.retry_after_ms, "1000");
}

TEST_F(CoordinatorTest, EngineErrorIsTheStreamsStatus) {
  StartServing();
  const auto call = Begin(Request());
  internal::LeaderMessage message;
  internal::SequenceEvent& event = *message.mutable_tokens()->add_events();
  event.set_sequence(workers_[0]->WaitForSubmit(0).sequence());
  event.set_error_code(static_cast<int>(absl::StatusCode::kInternal));
  event.set_error_message("logits are not finite");
  workers_[0]->Send(std::move(message));
  const Answer answer = call->Finish();
  EXPECT_EQ(answer.status.error_code(), grpc::INTERNAL);
  EXPECT_EQ(answer.status.error_message(), "logits are not finite");
}

TEST_F(CoordinatorTest, ReaderThatStopsIsCutOffAndItsNeighbourGoesOn) {
  options_.streams = {.max_buffered_bytes = 10'000, .flush_grace = std::chrono::milliseconds(100)};
  StartServing();
  const auto channel = Channel();  // a connection of its own: flow control is shared within one
  const auto stub = v1::Inference::NewStub(channel);
  grpc::ClientContext context;
  v1::GenerateRequest request = Request();
  request.set_max_tokens(2000);
  const auto stalled = stub->Generate(&context, request);
  const internal::Submit submit = workers_[0]->WaitForSubmit(0);
  const auto neighbour = Begin(Request());
  const internal::Submit other = workers_[0]->WaitForSubmit(1);
  std::atomic<bool> cut_off{false};
  std::thread flood([&] {
    while (!cut_off) workers_[0]->SendTokens(submit.sequence(), std::vector<int32_t>(200, 1));
  });
  EXPECT_TRUE(workers_[0]->WaitForCancel(submit.sequence()));
  cut_off = true;
  flood.join();
  workers_[0]->SendTokens(other.sequence(), {5, 6}, v1::FINISH_REASON_LENGTH);
  EXPECT_THAT(neighbour->Finish().tokens(), ElementsAre(5, 6));
}

TEST_F(CoordinatorTest, UnloadEndsStreamsAndFreesTheRank) {
  StartServing();
  const auto call = Begin(Request());
  workers_[0]->WaitForSubmit(0);
  v1::UnloadModelRequest request;
  request.set_name("tiny");
  grpc::ClientContext context;
  v1::UnloadModelResponse response;
  ASSERT_TRUE(cluster_->UnloadModel(&context, request, &response).ok());
  EXPECT_EQ(call->Finish().status.error_code(), grpc::UNAVAILABLE);
  EXPECT_FALSE(Healthy("model/tiny"));
  EXPECT_TRUE(LoadTiny().ok());
}

TEST_F(CoordinatorTest, StatusShowsRanksAndModels) {
  StartServing();
  grpc::ClientContext context;
  v1::GetStatusResponse status;
  ASSERT_TRUE(cluster_->GetStatus(&context, {}, &status).ok());
  EXPECT_EQ(status.pool_ranks(), 1);
  EXPECT_FALSE(status.commit().empty());
  EXPECT_EQ(status.ranks(0).model(), "tiny");
  EXPECT_EQ(status.ranks(0).driver_version(), "580.65.06");
  EXPECT_EQ(status.ranks(0).runtime_version(), "13.0");
  EXPECT_EQ(status.ranks(0).commit(), "0123456789ab");
  ASSERT_EQ(status.models_size(), 1);
  EXPECT_EQ(status.models(0).info().state(), "READY");
  EXPECT_EQ(status.models(0).info().vocab(), 4096);
  EXPECT_EQ(status.models(0).kv_blocks(), 100);
  EXPECT_EQ(status.models(0).info().checkpoint(), "tiny-qwen2");
  EXPECT_EQ(status.models(0).info().load_format(), "auto");
  EXPECT_EQ(status.models(0).info().format(), "bfloat16");
  EXPECT_EQ(status.models(0).info().dtype(), "float32");
}

}  // namespace
}  // namespace tessera::testing
