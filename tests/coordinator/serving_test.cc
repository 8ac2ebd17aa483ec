#include "coordinator/serving.h"

#include <memory>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/fake_streams.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using ::testing::ElementsAre;
using testing::FakeClock;
using testing::FakeOutStream;
using testing::FakeSink;
using ::testing::HasSubstr;
using testing::StatusIs;

using FakeLeader = FakeOutStream<internal::CoordinatorMessage>;

// A model without a tokenizer, open for requests.
class ServingTest : public ::testing::Test {
 protected:
  ServingTest()
      : files_(std::make_shared<const ModelFiles>(
            ModelFiles{.config = {},
                       .generation = {},
                       .text = ModelText(absl::FailedPreconditionError("none"))})),
        serving_({.name = "m", .files = files_, .context = 100, .queue = {.requests = 3}}, clock_) {
    serving_.Open(leader_);
  }

  absl::StatusOr<uint64_t> Start(const std::shared_ptr<FakeSink>& sink, int choices = 1) {
    CheckedRequest request;
    request.request_id = "id";
    request.prompt = {1, 2};
    request.choices = choices;
    request.seed = 10;
    request.max_tokens = 8;
    return serving_.Start(std::move(request), sink, {clock_.steady_us, clock_.unix_us});
  }
  uint64_t SequenceOf(size_t message) const {
    return leader_->sent.at(message).submit().sequence();
  }

  static internal::LeaderMessage Tokens(uint64_t sequence, std::vector<int32_t> ids,
                                        v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED) {
    internal::LeaderMessage message;
    internal::SequenceEvent& event = *message.mutable_tokens()->add_events();
    event.set_sequence(sequence);
    for (const int32_t id : ids) event.add_tokens()->set_id(id);
    event.set_finish_reason(reason);
    return message;
  }

  // The leader's times of the message's only event.
  static internal::LeaderMessage Timed(internal::LeaderMessage message, int64_t scheduled_us,
                                       int64_t produced_us) {
    internal::SequenceEvent& event = *message.mutable_tokens()->mutable_events(0);
    event.set_scheduled_unix_us(scheduled_us);
    event.set_produced_unix_us(produced_us);
    return message;
  }

  FakeClock clock_;
  std::shared_ptr<const ModelFiles> files_;
  std::shared_ptr<FakeLeader> leader_ = std::make_shared<FakeLeader>();
  std::shared_ptr<FakeSink> sink_ = std::make_shared<FakeSink>();
  Serving serving_;
};

TEST_F(ServingTest, StartSubmitsEveryFieldToTheLeader) {
  ASSERT_OK(Start(sink_));
  ASSERT_EQ(leader_->sent.size(), 1u);
  const internal::Submit& submit = leader_->sent[0].submit();
  EXPECT_EQ(submit.request_id(), "id");
  EXPECT_THAT(submit.prompt(), ElementsAre(1, 2));
  EXPECT_EQ(submit.max_tokens(), 8);
  EXPECT_EQ(submit.logprobs(), -1);
  EXPECT_TRUE(submit.sampling().has_temperature());
  EXPECT_TRUE(submit.sampling().has_frequency_penalty());
}

TEST_F(ServingTest, StreamEndsOnceWithOkWhenAllChoicesHaveFinished) {
  ASSERT_OK(Start(sink_, /*choices=*/2));
  serving_.OnMessage(Tokens(SequenceOf(0), {5}, v1::FINISH_REASON_LENGTH));
  EXPECT_FALSE(sink_->status.has_value());
  serving_.OnMessage(Tokens(SequenceOf(1), {6}, v1::FINISH_REASON_STOP));
  ASSERT_TRUE(sink_->status.has_value());
  EXPECT_OK(*sink_->status);
  EXPECT_EQ(sink_->ends, 1);
  EXPECT_EQ(leader_->sent.size(), 2u);  // nothing to cancel
}

// The leader begins 3 ms after the request came and has tokens 4, 6 and 8 ms later. The first comes
// here at 12 ms, the other two together at 18.
TEST_F(ServingTest, TimingSeesThroughBunchedTokens) {
  const int64_t begin = clock_.unix_us + 3'000;
  ASSERT_OK(Start(sink_));
  clock_.Advance(12'000);
  serving_.OnMessage(Timed(Tokens(SequenceOf(0), {5}), begin, begin + 4'000));
  internal::LeaderMessage rest = Timed(Tokens(SequenceOf(0), {6}), 0, begin + 6'000);
  rest.MergeFrom(Timed(Tokens(SequenceOf(0), {7}, v1::FINISH_REASON_LENGTH), 0, begin + 8'000));
  clock_.Advance(6'000);
  serving_.OnMessage(rest);
  const v1::Timing& timing = sink_->events.back().timing();
  EXPECT_DOUBLE_EQ(timing.queue_ms(), 3);
  EXPECT_DOUBLE_EQ(timing.ttft_ms(), 12);
  EXPECT_DOUBLE_EQ(timing.tpot_ms(), 2);  // 4 ms for two more tokens
  EXPECT_DOUBLE_EQ(timing.total_ms(), 18);
}

TEST_F(ServingTest, OneTokenHasNoTimePerToken) {
  const int64_t begin = clock_.unix_us + 1'000;
  ASSERT_OK(Start(sink_));
  clock_.Advance(10'000);
  serving_.OnMessage(
      Timed(Tokens(SequenceOf(0), {5}, v1::FINISH_REASON_LENGTH), begin, begin + 4'000));
  const v1::Timing& timing = sink_->events.back().timing();
  EXPECT_FALSE(timing.has_tpot_ms());
  EXPECT_DOUBLE_EQ(timing.queue_ms(), 1);
  EXPECT_DOUBLE_EQ(timing.ttft_ms(), 10);
  EXPECT_DOUBLE_EQ(timing.total_ms(), 10);
}

// An hour ahead or behind; the first token came after 10 ms, 4 of which the engine worked.
TEST_F(ServingTest, QueueTimeIsPossibleWhateverTheLeadersClock) {
  for (const auto& [skew_us, queue_ms] :
       {std::pair<int64_t, double>{3'600'000'000, 6}, {-3'600'000'000, 0}}) {
    auto sink = std::make_shared<FakeSink>();
    const int64_t begin = clock_.unix_us + skew_us;
    ASSERT_OK(Start(sink));
    clock_.Advance(10'000);
    const uint64_t sequence = leader_->sent.back().submit().sequence();
    serving_.OnMessage(
        Timed(Tokens(sequence, {5}, v1::FINISH_REASON_LENGTH), begin, begin + 4'000));
    EXPECT_DOUBLE_EQ(sink->events.back().timing().queue_ms(), queue_ms);
  }
}

TEST_F(ServingTest, AnswerWithoutTokensHasOnlyATotal) {
  ASSERT_OK(Start(sink_));
  clock_.Advance(3'000);
  serving_.OnMessage(Tokens(SequenceOf(0), {}, v1::FINISH_REASON_LENGTH));
  const v1::Timing& timing = sink_->events.back().timing();
  EXPECT_FALSE(timing.has_queue_ms() || timing.has_ttft_ms() || timing.has_tpot_ms());
  EXPECT_DOUBLE_EQ(timing.total_ms(), 3);
}

TEST_F(ServingTest, ClosedModelHasNoEngine) {
  internal::LeaderMessage message;
  message.mutable_stats()->set_running(3);
  message.mutable_stats()->set_steps(9);
  serving_.OnMessage(message);
  EXPECT_EQ(serving_.stats().engine.running(), 3);
  serving_.Close(absl::UnavailableError("rank 2 was lost"));
  serving_.OnMessage(message);  // was on its way
  EXPECT_EQ(serving_.stats().engine.running(), 0);
  EXPECT_EQ(serving_.stats().engine.steps(), 0);
}

TEST_F(ServingTest, CancelEndsTheStreamAndTellsTheLeaderOfEveryChoice) {
  ASSERT_OK_AND_ASSIGN(const uint64_t request, Start(sink_, /*choices=*/2));
  serving_.Cancel(request, absl::CancelledError("gone"));
  EXPECT_THAT(*sink_->status, StatusIs(absl::StatusCode::kCancelled, std::string("gone")));
  ASSERT_EQ(leader_->sent.size(), 4u);
  EXPECT_EQ(leader_->sent[2].cancel().sequence(), SequenceOf(0));
  EXPECT_EQ(leader_->sent[3].cancel().sequence(), SequenceOf(1));
}

TEST_F(ServingTest, CancelAfterTheEndChangesNothing) {
  ASSERT_OK_AND_ASSIGN(const uint64_t request, Start(sink_));
  serving_.OnMessage(Tokens(SequenceOf(0), {5}, v1::FINISH_REASON_LENGTH));
  serving_.Cancel(request, absl::CancelledError("gone"));
  EXPECT_OK(*sink_->status);
  EXPECT_EQ(leader_->sent.size(), 1u);
}

TEST_F(ServingTest, TokensAfterTheEndAreDropped) {
  ASSERT_OK_AND_ASSIGN(const uint64_t request, Start(sink_));
  serving_.Cancel(request, absl::CancelledError("gone"));
  const size_t events = sink_->events.size();
  serving_.OnMessage(Tokens(SequenceOf(0), {5}));
  EXPECT_EQ(sink_->events.size(), events);
}

TEST_F(ServingTest, FullQueueRefusesUntilATokenComes) {
  ASSERT_OK(Start(sink_, /*choices=*/3));
  EXPECT_THAT(Start(std::make_shared<FakeSink>()),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("3 requests wait")));
  serving_.OnMessage(Tokens(SequenceOf(1), {5}));
  EXPECT_OK(Start(std::make_shared<FakeSink>()));
  EXPECT_EQ(serving_.stats().refused, 1);
}

TEST_F(ServingTest, CancelledRequestsLeaveTheQueue) {
  ASSERT_OK_AND_ASSIGN(const uint64_t request, Start(sink_, /*choices=*/3));
  serving_.OnMessage(Tokens(SequenceOf(0), {5}));
  serving_.Cancel(request, absl::CancelledError("gone"));
  EXPECT_OK(Start(std::make_shared<FakeSink>(), /*choices=*/3));
}

TEST_F(ServingTest, SinkThatIsFullIsCancelledAtTheLeader) {
  sink_->room = 1;  // the first event only
  ASSERT_OK(Start(sink_));
  serving_.OnMessage(Tokens(SequenceOf(0), {5}));
  EXPECT_THAT(*sink_->status, StatusIs(absl::StatusCode::kResourceExhausted, _));
  EXPECT_EQ(leader_->sent.at(1).cancel().sequence(), SequenceOf(0));
}

TEST_F(ServingTest, CloseEndsEveryStreamAndRefusesLaterOnes) {
  auto other = std::make_shared<FakeSink>();
  ASSERT_OK(Start(sink_));
  ASSERT_OK(Start(other));
  serving_.Close(absl::UnavailableError("rank 2 was lost"));
  EXPECT_THAT(*sink_->status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 2")));
  EXPECT_THAT(*other->status, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 2")));
  EXPECT_THAT(Start(std::make_shared<FakeSink>()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("rank 2")));
  EXPECT_EQ(serving_.stats().live, 0);
  EXPECT_EQ(serving_.stats().completed, 2);
}

TEST_F(ServingTest, PromptLogprobsAreAskedForOnceAndPassedOn) {
  CheckedRequest request;
  request.prompt = {1, 2};
  request.choices = 2;
  request.prompt_logprobs = true;
  ASSERT_OK(serving_.Start(std::move(request), sink_, {}));
  EXPECT_TRUE(leader_->sent[0].submit().prompt_logprobs());
  EXPECT_FALSE(leader_->sent[1].submit().prompt_logprobs());
  internal::LeaderMessage message = Tokens(SequenceOf(0), {5});
  message.mutable_tokens()->mutable_events(0)->add_prompt_logprobs(-1.5f);
  serving_.OnMessage(message);
  EXPECT_THAT(sink_->events.back().prompt_logprobs(), ElementsAre(-1.5f));
}

TEST_F(ServingTest, LogprobsAreLeftOutUnlessWanted) {
  ASSERT_OK(Start(sink_));
  internal::LeaderMessage message = Tokens(SequenceOf(0), {5});
  message.mutable_tokens()->mutable_events(0)->mutable_tokens(0)->set_logprob(-2.f);
  serving_.OnMessage(message);
  EXPECT_EQ(sink_->events.back().tokens(0).logprob(), 0);
}

TEST_F(ServingTest, EngineErrorEndsTheRequestAndItsOtherChoices) {
  ASSERT_OK(Start(sink_, /*choices=*/2));
  internal::LeaderMessage message = Tokens(SequenceOf(0), {});
  message.mutable_tokens()->mutable_events(0)->set_error_code(13);
  message.mutable_tokens()->mutable_events(0)->set_error_message("no luck");
  serving_.OnMessage(message);
  EXPECT_THAT(*sink_->status, StatusIs(absl::StatusCode::kInternal, std::string("no luck")));
  EXPECT_EQ(leader_->sent.back().cancel().sequence(), SequenceOf(1));
}

}  // namespace
}  // namespace tessera
