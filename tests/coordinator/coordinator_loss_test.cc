// What happens to streams, health and the other ranks when something is lost, drained or refused.
#include <chrono>
#include <future>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/coordinator_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class LossTest : public CoordinatorTest {
 protected:
  // A pool of two ranks with "tiny" on both of them.
  void StartTwo() {
    StartCoordinator();
    StartPool(2);
    ASSERT_TRUE(LoadTiny(/*tp=*/2).ok());
  }
};

TEST_F(LossTest, EveryStreamEndsWithUnavailableThatNamesTheRankWithinTwoSeconds) {
  StartTwo();
  std::vector<std::unique_ptr<Call>> calls;
  for (size_t i = 0; i < 3; ++i) {
    calls.push_back(Begin(Request()));
    workers_[0]->WaitForSubmit(i);
  }
  const auto begin = std::chrono::steady_clock::now();
  workers_[1]->EndControl();
  for (const auto& call : calls) {
    const Answer answer = call->Finish();
    EXPECT_EQ(answer.status.error_code(), grpc::UNAVAILABLE);
    EXPECT_THAT(answer.status.error_message(), HasSubstr("rank 1 (host test-host, pid 1001)"));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
}

TEST_F(LossTest, HealthIsNotServingAndTheModelFailed) {
  StartTwo();
  const auto call = Begin(Request());
  workers_[0]->WaitForSubmit(0);
  workers_[1]->EndControl();
  call->Finish();
  EXPECT_FALSE(Healthy(""));
  EXPECT_FALSE(Healthy("model/tiny"));
  grpc::ClientContext context;
  v1::ListModelsResponse models;
  ASSERT_TRUE(inference_->ListModels(&context, {}, &models).ok());
  EXPECT_EQ(models.models(0).state(), "FAILED");
  EXPECT_EQ(Generate(Request()).status.error_code(), grpc::UNAVAILABLE);
}

TEST_F(LossTest, StatusShowsTheReasonAndNoCountersOfTheEngineThatIsGone) {
  StartTwo();
  const auto call = Begin(Request());
  workers_[0]->WaitForSubmit(0);
  internal::LeaderMessage stats;
  stats.mutable_stats()->set_running(1);
  stats.mutable_stats()->set_steps(5);
  workers_[0]->Send(stats);
  const auto model = [this] {
    grpc::ClientContext context;
    v1::GetStatusResponse response;
    EXPECT_TRUE(cluster_->GetStatus(&context, {}, &response).ok());
    return response.models(0);
  };
  while (model().running() != 1) std::this_thread::yield();
  EXPECT_EQ(model().steps(), 5);
  EXPECT_EQ(model().memory_size(), 2);
  workers_[1]->EndControl();
  call->Finish();
  const v1::ModelStatus lost = model();
  EXPECT_EQ(lost.info().state(), "FAILED");
  EXPECT_THAT(lost.failure(), HasSubstr("rank 1 (host test-host, pid 1001) was lost"));
  EXPECT_FALSE(lost.has_running() || lost.has_waiting() || lost.has_kv_blocks_free() ||
               lost.has_steps());
  EXPECT_EQ(lost.ranks_size(), 0);
  EXPECT_EQ(lost.memory_size(), 0);
  EXPECT_EQ(lost.completed(), 1);
}

TEST_F(LossTest, OtherRanksAreToldToShutDown) {
  StartTwo();
  workers_[1]->EndControl();
  EXPECT_TRUE(workers_[0]->WaitForShutdown());
}

TEST_F(LossTest, FatalReportIsALossWithItsMessage) {
  StartTwo();
  const auto call = Begin(Request());
  workers_[0]->WaitForSubmit(0);
  internal::WorkerReport report;
  report.mutable_fatal()->set_message("CUDA error 700");
  workers_[1]->Report(report);
  const Answer answer = call->Finish();
  EXPECT_EQ(answer.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("CUDA error 700"));
}

TEST_F(LossTest, EndOfTheServeStreamIsTheLossOfItsRank) {
  StartTwo();
  const auto call = Begin(Request());
  workers_[0]->WaitForSubmit(0);
  workers_[0]->EndServe();
  const Answer answer = call->Finish();
  EXPECT_EQ(answer.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("rank 0 "));
}

TEST_F(LossTest, NewPoolWithANewEpochServesTheModelAgain) {
  StartTwo();
  const int64_t epoch = workers_[0]->epoch();
  workers_[1]->EndControl();
  ASSERT_TRUE(workers_[0]->WaitForShutdown());
  workers_.clear();
  StartPool(1);
  EXPECT_GT(workers_[0]->epoch(), epoch);
  ASSERT_TRUE(LoadTiny().ok());
  EXPECT_TRUE(Healthy(""));
  const auto call = Begin(Request());
  const internal::Submit submit = workers_[0]->WaitForSubmit(0);
  workers_[0]->SendTokens(submit.sequence(), {9}, v1::FINISH_REASON_LENGTH);
  EXPECT_THAT(call->Finish().tokens(), ElementsAre(9));
}

TEST_F(LossTest, RankWhoseLoadFailsGivesTheErrorAndTheOthersAreUnloaded) {
  StartCoordinator();
  auto good = FakeWorker::Start({.link = Link(), .rank = 0, .ranks = 2});
  int loads = 0;
  auto bad = FakeWorker::Start(
      {.link = Link(), .rank = 1, .ranks = 2, .on_load = [&](const internal::LoadShard& load) {
         internal::WorkerReport report;
         if (loads++ > 0) {
           report.mutable_loaded()->set_instance(load.instance());
           return report;
         }
         report.mutable_load_failed()->set_instance(load.instance());
         report.mutable_load_failed()->set_code(static_cast<int>(absl::StatusCode::kDataLoss));
         report.mutable_load_failed()->set_message("model.safetensors: truncated");
         return report;
       }});
  ASSERT_TRUE(good.ok() && bad.ok());
  const grpc::Status status = LoadTiny(/*tp=*/2);
  EXPECT_EQ(status.error_code(), grpc::DATA_LOSS);
  EXPECT_EQ(status.error_message(),
            "rank 1 (host test-host, pid 1001): model.safetensors: truncated");
  EXPECT_TRUE(LoadTiny(/*tp=*/2).ok());  // all ranks are idle again
}

TEST_F(LossTest, PlanOfMoreRanksThanThePoolHasSaysHowMany) {
  StartCoordinator();
  StartPool(1);
  const grpc::Status status = LoadTiny(/*tp=*/2);
  EXPECT_EQ(status.error_code(), grpc::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("needs 2 ranks (tp 2 x pp 1); 1 of 1 are idle"));
}

TEST_F(LossTest, LoadWithoutACompletePoolIsUnavailable) {
  StartCoordinator();
  const grpc::Status status = LoadTiny();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("0 of 0 ranks"));
}

TEST_F(LossTest, LoadGoesOnWithoutTheClient) {
  StartCoordinator();
  std::promise<void> asked;
  std::promise<void> answer;
  auto worker = FakeWorker::Start(
      {.link = Link(), .rank = 0, .ranks = 1, .on_load = [&](const internal::LoadShard& load) {
         asked.set_value();
         answer.get_future().wait();
         internal::WorkerReport report;
         report.mutable_loaded()->set_instance(load.instance());
         return report;
       }});
  ASSERT_TRUE(worker.ok());
  grpc::ClientContext context;
  v1::LoadModelRequest request;
  request.set_name("tiny");
  const auto reader = cluster_->LoadModel(&context, request);
  asked.get_future().wait();
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::CANCELLED);
  answer.set_value();
  // The same rank answers a second load of the name only by being asked: there is none.
  while (!Healthy("model/tiny")) std::this_thread::yield();
  EXPECT_EQ(LoadTiny().error_code(), grpc::ALREADY_EXISTS);
}

TEST_F(LossTest, DrainLetsRunningRequestsEndAndRefusesNewOnes) {
  StartServing();
  const auto call = Begin(Request());
  const internal::Submit submit = workers_[0]->WaitForSubmit(0);
  std::thread runner([this] { coordinator_->RunUntilDrained(); });
  coordinator_->RequestDrain(absl::Seconds(20));
  while (Healthy("")) std::this_thread::yield();
  EXPECT_EQ(Generate(Request()).status.error_code(), grpc::UNAVAILABLE);
  workers_[0]->SendTokens(submit.sequence(), {1}, v1::FINISH_REASON_LENGTH);
  EXPECT_TRUE(call->Finish().status.ok());
  EXPECT_TRUE(workers_[0]->WaitForShutdown());
  runner.join();
}

TEST_F(LossTest, DrainEndsWhatOutlastsTheGrace) {
  StartServing();
  const auto call = Begin(Request());
  workers_[0]->WaitForSubmit(0);
  std::thread runner([this] { coordinator_->RunUntilDrained(); });
  grpc::ClientContext context;
  v1::DrainRequest request;
  request.set_grace_ms(1);
  v1::DrainResponse response;
  EXPECT_TRUE(cluster_->Drain(&context, request, &response).ok());
  EXPECT_EQ(call->Finish().status.error_code(), grpc::UNAVAILABLE);
  runner.join();
}

}  // namespace
}  // namespace tessera::testing
