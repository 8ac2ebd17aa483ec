#include "coordinator/cluster.h"

#include <memory>
#include <string>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/fake_streams.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::FakeClock;
using testing::FakeOutStream;
using ::testing::HasSubstr;
using testing::StatusIs;

using FakeRank = FakeOutStream<internal::WorkerCommand>;
using FakeLeader = FakeOutStream<internal::CoordinatorMessage>;

struct FakeObserver final : LoadObserver {
  void OnEvent(const v1::LoadModelEvent& event) override { events.push_back(event); }
  void OnEnd(const absl::Status& why) override { status = why; }
  std::vector<v1::LoadModelEvent> events;
  std::optional<absl::Status> status;
};

absl::StatusOr<Plan> PlanAsAsked(const PlanInput& input) {
  Plan plan;
  plan.shape.tp = std::max<int64_t>(input.tp, 1);
  plan.ranks.resize(static_cast<size_t>(plan.shape.tp));
  plan.kv_blocks = 9;
  return plan;
}

class ClusterTest : public ::testing::Test {
 protected:
  ClusterTest()
      : cluster_({.sources = {.dirs = {{"tiny", absl::StrCat(TESSERA_TEST_DATA, "/tiny-qwen2")}}}},
                 PlanAsAsked, clock_, [this](absl::string_view service, bool serving) {
                   health_[std::string(service)] = serving;
                 }) {}

  int64_t Register(int rank, int ranks) {
    internal::Register info;
    info.set_rank(rank);
    info.set_ranks(ranks);
    info.set_host("h");
    info.set_total_bytes(1 << 30);
    info.set_free_bytes(1 << 30);
    streams_.push_back(std::make_shared<FakeRank>());
    return cluster_.RegisterRank(info, streams_.back()).value_or(0);
  }
  void Report(int rank, internal::WorkerReport report) {
    if (report.epoch() == 0) report.set_epoch(epoch_);
    cluster_.OnReport(rank, report);
  }
  void StartPool(int ranks) {
    for (int rank = 0; rank < ranks; ++rank) epoch_ = Register(rank, ranks);
  }
  std::shared_ptr<FakeObserver> Load(const std::string& name, int tp) {
    v1::ModelOptions options;
    options.set_tp(tp);
    return Load(name, options);
  }
  std::shared_ptr<FakeObserver> Load(const std::string& name, const v1::ModelOptions& options) {
    v1::LoadModelRequest request;
    request.set_name(name);
    *request.mutable_options() = options;
    request.mutable_options()->set_model_dir("tiny");
    auto observer = std::make_shared<FakeObserver>();
    cluster_.Load(request, observer);
    return observer;
  }
  void Loaded(int rank, int64_t instance) {
    internal::WorkerReport report;
    report.mutable_loaded()->set_instance(instance);
    Report(rank, report);
  }
  void Unloaded(int rank, int64_t instance) {
    internal::WorkerReport report;
    report.mutable_unloaded()->set_instance(instance);
    Report(rank, report);
  }
  std::shared_ptr<FakeLeader> Hello(int64_t instance) {
    internal::ServeHello hello;
    hello.set_epoch(epoch_);
    hello.set_instance(instance);
    auto leader = std::make_shared<FakeLeader>();
    EXPECT_OK(cluster_.OpenServing(hello, leader));
    return leader;
  }
  static std::vector<int32_t> RanksOf(const FakeRank& stream) {
    const auto& ranks = stream.sent.back().load().ranks();
    return {ranks.begin(), ranks.end()};
  }

  FakeClock clock_;
  std::map<std::string, bool> health_;
  Cluster cluster_;
  std::vector<std::shared_ptr<FakeRank>> streams_;
  int64_t epoch_ = 0;
};

TEST_F(ClusterTest, SilentRankIsLostAfterTenSeconds) {
  StartPool(2);
  internal::WorkerReport beat;
  beat.mutable_heartbeat()->set_steps(1);
  clock_.Advance(9'000'000);
  Report(0, beat);
  cluster_.Tick();
  EXPECT_EQ(cluster_.GetStatus().pool_ranks(), 2);
  clock_.Advance(1'000'000);  // rank 1 has been silent for 10 s
  cluster_.Tick();
  EXPECT_EQ(cluster_.GetStatus().pool_ranks(), 0);
  EXPECT_TRUE(streams_[0]->sent.back().has_shutdown());
  EXPECT_THAT(*streams_[0]->status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 1")));
}

TEST_F(ClusterTest, PoolThatStaysIncompleteIsGivenUp) {
  Register(0, 2);
  internal::WorkerReport beat;
  beat.mutable_heartbeat();
  beat.set_epoch(1);
  for (int i = 0; i < 13; ++i) {
    clock_.Advance(9'500'000);
    Report(0, beat);
    cluster_.Tick();
  }
  EXPECT_TRUE(streams_[0]->sent.back().has_shutdown());
}

TEST_F(ClusterTest, ReportsOfAnotherEpochAreDropped) {
  StartPool(1);
  internal::WorkerReport fatal;
  fatal.set_epoch(epoch_ + 1);
  fatal.mutable_fatal()->set_message("from an earlier life");
  Report(0, fatal);
  EXPECT_EQ(cluster_.GetStatus().pool_ranks(), 1);
}

TEST_F(ClusterTest, LossReportedOfAnEarlierPoolIsIgnored) {
  StartPool(1);
  cluster_.OnRankLost(epoch_, 0, "killed");
  const int64_t old = epoch_;
  StartPool(1);
  cluster_.OnRankLost(old, 0, "killed");
  EXPECT_EQ(cluster_.GetStatus().pool_ranks(), 1);
  EXPECT_EQ(epoch_, old + 1);
}

TEST_F(ClusterTest, ModelsGetTheLowestIdleRanksSideBySide) {
  StartPool(4);
  Load("a", 2);
  EXPECT_THAT(RanksOf(*streams_[0]), ElementsAre(0, 1));
  Load("b", 2);
  EXPECT_THAT(RanksOf(*streams_[2]), ElementsAre(2, 3));
  EXPECT_EQ(streams_[2]->sent.back().load().kv_blocks(), 9);
}

TEST_F(ClusterTest, LoadThatFindsTooFewIdleRanksIsResourceExhausted) {
  StartPool(2);
  Load("a", 1);
  EXPECT_THAT(*Load("b", 2)->status,
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("1 of 2 are idle")));
}

TEST_F(ClusterTest, ShardCarriesResolvedOptions) {
  StartPool(1);
  Load("a", 1);
  const v1::ModelOptions& options = streams_[0]->sent.back().load().options();
  EXPECT_EQ(options.context(), 2048);
  EXPECT_EQ(options.max_sequences(), 64);
  EXPECT_EQ(options.max_step_tokens(), 512);
  EXPECT_EQ(options.block_size(), 64);
  EXPECT_EQ(options.dtype(), "float32");
  EXPECT_EQ(options.load_format(), "auto");
  EXPECT_EQ(options.tp(), 1);
  EXPECT_EQ(options.pp(), 1);
  EXPECT_THAT(options.model_dir(), HasSubstr("/tiny-qwen2"));
}

v1::ModelOptions QuantOptions(const std::string& quant, const std::string& load_format) {
  v1::ModelOptions options;
  options.set_quant(quant);
  options.set_load_format(load_format);
  return options;
}

TEST_F(ClusterTest, DummyWeightsAreOfTheFormatAskedFor) {
  StartPool(1);
  Load("a", QuantOptions("gptq-int4", "dummy"));
  EXPECT_EQ(streams_[0]->sent.back().load().options().quant(), "gptq-int4");
  EXPECT_EQ(cluster_.ListModels().models(0).format(), "gptq-int4");
}

TEST_F(ClusterTest, RealWeightsInAnotherFormatAreInvalid) {
  StartPool(1);
  for (const char* load_format : {"", "auto"}) {
    EXPECT_THAT(*Load("a", QuantOptions("gptq-int4", load_format))->status,
                StatusIs(absl::StatusCode::kInvalidArgument,
                         AllOf(HasSubstr("options.quant: gptq-int4"), HasSubstr("are none"))));
  }
}

TEST_F(ClusterTest, FormatThatTheCheckpointHasIsTaken) {
  StartPool(1);
  Load("a", QuantOptions("none", "auto"));
  EXPECT_EQ(cluster_.ListModels().models_size(), 1);
}

TEST_F(ClusterTest, UnknownFormatListsTheKnownOnes) {
  StartPool(1);
  EXPECT_THAT(*Load("a", QuantOptions("int5", "dummy"))->status,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("int5"), HasSubstr("gptq-int8"))));
}

TEST_F(ClusterTest, ReadyNeedsAllRanksAndTheLeadersHello) {
  StartPool(2);
  const auto observer = Load("a", 2);
  Loaded(0, 1);
  Hello(1);
  EXPECT_THAT(cluster_.FindReady("a"),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("LOADING")));
  EXPECT_FALSE(health_["model/a"]);
  Loaded(1, 1);
  EXPECT_OK(cluster_.FindReady("a"));
  EXPECT_OK(*observer->status);
  EXPECT_TRUE(health_["model/a"]);
  EXPECT_TRUE(health_[""]);
}

TEST_F(ClusterTest, ProgressIsSummedOverTheRanks) {
  StartPool(2);
  const auto observer = Load("a", 2);
  for (int rank = 0; rank < 2; ++rank) {
    internal::WorkerReport report;
    report.mutable_progress()->set_instance(1);
    report.mutable_progress()->set_loaded_bytes(10 + rank);
    report.mutable_progress()->set_total_bytes(100);
    Report(rank, report);
  }
  EXPECT_EQ(observer->events.back().state(), "LOADING");
  EXPECT_EQ(observer->events.back().loaded_bytes(), 21);
  EXPECT_EQ(observer->events.back().total_bytes(), 200);
}

TEST_F(ClusterTest, FailedLoadEndsOnceTheOtherRanksAreFree) {
  StartPool(2);
  const auto observer = Load("a", 2);
  internal::WorkerReport failed;
  failed.mutable_load_failed()->set_instance(1);
  failed.mutable_load_failed()->set_code(static_cast<int>(absl::StatusCode::kNotFound));
  failed.mutable_load_failed()->set_message("no weights");
  Report(1, failed);
  EXPECT_TRUE(streams_[0]->sent.back().has_unload());
  EXPECT_FALSE(observer->status.has_value());
  Unloaded(0, 1);
  EXPECT_THAT(*observer->status, StatusIs(absl::StatusCode::kNotFound, HasSubstr("no weights")));
  EXPECT_THAT(cluster_.FindReady("a"), StatusIs(absl::StatusCode::kNotFound, _));
}

TEST_F(ClusterTest, PoolLostWhileLoadingEndsTheLoad) {
  StartPool(1);
  const auto observer = Load("a", 1);
  cluster_.OnRankLost(epoch_, 0, "killed");
  EXPECT_THAT(*observer->status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("killed")));
  EXPECT_EQ(cluster_.ListModels().models_size(), 0);
}

TEST_F(ClusterTest, EngineThatRunsWithoutStepsMakesNoProgress) {
  StartPool(1);
  Load("a", 1);
  Loaded(0, 1);
  Hello(1);
  ASSERT_OK_AND_ASSIGN(const auto serving, cluster_.FindReady("a"));
  internal::LeaderMessage message;
  message.mutable_stats()->set_running(1);
  message.mutable_stats()->set_steps(5);
  internal::WorkerReport beat;
  beat.mutable_heartbeat();
  serving->OnMessage(message);
  cluster_.Tick();
  EXPECT_TRUE(health_["progress"]);
  for (int i = 0; i < 5; ++i) {  // 30 s of stats that do not move, with heartbeats
    clock_.Advance(6'000'000);
    Report(0, beat);
    serving->OnMessage(message);
  }
  cluster_.Tick();
  EXPECT_FALSE(health_["progress"]);
  EXPECT_TRUE(health_[""]);
  message.mutable_stats()->set_steps(6);
  serving->OnMessage(message);
  cluster_.Tick();
  EXPECT_TRUE(health_["progress"]);
}

TEST_F(ClusterTest, UnloadAnswersWhenTheRanksAreFree) {
  StartPool(1);
  Load("a", 1);
  Loaded(0, 1);
  const auto leader = Hello(1);
  std::optional<absl::Status> done;
  cluster_.Unload("a", [&](const absl::Status& status) { done = status; });
  EXPECT_FALSE(done.has_value());
  EXPECT_TRUE(leader->status.has_value());
  EXPECT_TRUE(streams_[0]->sent.back().has_unload());
  Unloaded(0, 1);
  EXPECT_OK(*done);
  EXPECT_FALSE(health_[""]);
}

TEST_F(ClusterTest, UnloadOfAnUnknownModelIsNotFound) {
  cluster_.Unload("a", [](const absl::Status& status) {
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound, HasSubstr("model a")));
  });
}

TEST_F(ClusterTest, FailedModelIsForgottenByUnload) {
  StartPool(1);
  Load("a", 1);
  Loaded(0, 1);
  Hello(1);
  cluster_.OnRankLost(epoch_, 0, "killed");
  ASSERT_EQ(cluster_.ListModels().models(0).state(), "FAILED");
  cluster_.Unload("a", [](const absl::Status& status) { EXPECT_OK(status); });
  EXPECT_EQ(cluster_.ListModels().models_size(), 0);
}

TEST_F(ClusterTest, SecondLoadOfANameIsRefused) {
  StartPool(2);
  Load("a", 1);
  EXPECT_THAT(*Load("a", 1)->status, StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("a")));
}

TEST_F(ClusterTest, ModelNamesHaveOnlyHarmlessBytes) {
  StartPool(1);
  EXPECT_THAT(*Load("a/b", 1)->status, StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(*Load("", 1)->status, StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(ClusterTest, PlanWithoutDevicesNeedsAGpusName) {
  v1::PlanRequest request;
  request.mutable_options()->set_model_dir("tiny");
  EXPECT_THAT(cluster_.MakePlan(request),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("gpu")));
  request.set_gpu("h200");
  EXPECT_OK(cluster_.MakePlan(request));
}

TEST_F(ClusterTest, DrainingClusterTakesNothingNew) {
  StartPool(1);
  Load("a", 1);
  Loaded(0, 1);
  Hello(1);
  cluster_.StartDrain();
  EXPECT_FALSE(health_[""]);
  EXPECT_THAT(cluster_.FindReady("a"), StatusIs(absl::StatusCode::kUnavailable, _));
  EXPECT_THAT(*Load("b", 1)->status, StatusIs(absl::StatusCode::kUnavailable, _));
}

}  // namespace
}  // namespace tessera
