#include "parallel/loopback_communicator.h"

#include <functional>
#include <thread>

#include <absl/time/clock.h>

#include "tests/parallel/contract.h"

namespace tessera {
namespace {

using testing::CpuStream;
using ::testing::HasSubstr;
using testing::StatusIs;

constexpr absl::StatusCode kUnavailable = absl::StatusCode::kUnavailable;

// Runs `body` once per rank, each in a thread of its own.
void OnEveryRank(std::vector<std::unique_ptr<Communicator>>& group,
                 const std::function<void(Communicator&)>& body) {
  std::vector<std::thread> threads;
  for (auto& rank : group) threads.emplace_back([&body, &rank] { body(*rank); });
  for (std::thread& thread : threads) thread.join();
}

class LoopbackTest : public ::testing::TestWithParam<int> {
 protected:
  void OnEvery(const std::function<void(Communicator&)>& body) {
    auto group = NewLoopbackGroup(GetParam(), testing::CommunicatorOps());
    OnEveryRank(group, body);
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, LoopbackTest, ::testing::Values(1, 2, 3, 5));

TEST_P(LoopbackTest, SumsInRankOrderOnEveryRank) {
  OnEvery([](Communicator& c) { testing::ExpectSumInRankOrder(c, 1025); });
}
TEST_P(LoopbackTest, SumIsCloseToDouble) {
  OnEvery([](Communicator& c) { testing::ExpectSumCloseToDouble(c, 2049); });
}
TEST_P(LoopbackTest, SumOfBf16IsRoundedOnce) {
  OnEvery([](Communicator& c) { testing::ExpectBf16SumRoundedOnce(c, 33); });
}
TEST_P(LoopbackTest, AllReduceNormWritesTheOrdersAskedFor) {
  OnEvery([](Communicator& c) { testing::ExpectAllReduceNormInOrders(c, 3, 136); });
}

TEST_P(LoopbackTest, AllReduceNormMatchesFormula) {
  OnEvery([](Communicator& c) { testing::ExpectAllReduceNorm(c, 3, 136); });
}
TEST_P(LoopbackTest, WithoutWeightOnlyTheResidualChanges) {
  OnEvery([](Communicator& c) { testing::ExpectResidualOnlyWithoutWeight(c); });
}
TEST_P(LoopbackTest, GathersInRankOrder) {
  OnEvery([](Communicator& c) {
    testing::ExpectAllGather(c, 17, testing::Placement::kOutOfPlace);
    testing::ExpectAllGather(c, 1000, testing::Placement::kInPlace);
  });
}
TEST_P(LoopbackTest, BroadcastsFromEveryRoot) {
  OnEvery([](Communicator& c) { testing::ExpectBroadcastFromEveryRoot(c, 100); });
}
TEST_P(LoopbackTest, MessagesArriveInOrder) {
  OnEvery([](Communicator& c) { testing::ExpectMessagesInOrderDownTheLine(c, 50); });
}
TEST_P(LoopbackTest, RefusesBadArguments) {
  OnEvery([](Communicator& c) { testing::ExpectArgumentErrors(c); });
}
TEST_P(LoopbackTest, EmptyOperationsAreFine) {
  OnEvery([](Communicator& c) {
    CpuStream cpu;
    EXPECT_OK(c.AllReduceSum(nullptr, 0, DType::kF32, cpu.stream));
    EXPECT_OK(c.AllGather(nullptr, nullptr, 0, cpu.stream));
    EXPECT_OK(c.Broadcast(nullptr, 0, 0, cpu.stream));
  });
}

TEST(Loopback, MissingPeerIsUnavailableAndNamesTheOperation) {
  auto group = NewLoopbackGroup(2, testing::CommunicatorOps(), absl::Milliseconds(20));
  CpuStream cpu;
  float x = 1;
  EXPECT_THAT(group[0]->AllReduceSum(&x, 1, DType::kF32, cpu.stream),
              StatusIs(kUnavailable, HasSubstr("all-reduce of rank 0: 1 of 2 ranks did not join")));
}

TEST(Loopback, RecvWithoutSenderIsUnavailable) {
  auto group = NewLoopbackGroup(2, testing::CommunicatorOps(), absl::Milliseconds(20));
  CpuStream cpu;
  float x = 1;
  EXPECT_THAT(group[1]->Recv(&x, 4, 0, cpu.stream),
              StatusIs(kUnavailable, HasSubstr("nothing from rank 0")));
}

TEST(Loopback, AfterATimeoutTheWholeGroupIsUnavailable) {
  auto group = NewLoopbackGroup(2, testing::CommunicatorOps(), absl::Milliseconds(20));
  CpuStream cpu;
  float x = 1;
  EXPECT_FALSE(group[0]->AllReduceSum(&x, 1, DType::kF32, cpu.stream).ok());
  EXPECT_THAT(group[1]->Send(&x, 4, 0, cpu.stream),
              StatusIs(kUnavailable, HasSubstr("all-reduce")));
}

TEST(Loopback, AbortWakesWaitingRanks) {
  auto group = NewLoopbackGroup(3, testing::CommunicatorOps());
  const absl::Time start = absl::Now();
  std::thread aborter([&] { group[2]->Abort(); });
  OnEveryRank(group, [](Communicator& c) {
    CpuStream cpu;
    float x = 1;
    if (c.rank() == 2) return;
    const absl::Status status = c.rank() == 0 ? c.AllReduceSum(&x, 1, DType::kF32, cpu.stream)
                                              : c.Recv(&x, 4, 0, cpu.stream);
    EXPECT_THAT(status, StatusIs(kUnavailable, HasSubstr("aborted by rank 2")));
  });
  aborter.join();
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST(LoopbackDeathTest, DifferentSizesAtTheSamePointAreABug) {
  EXPECT_DEATH(
      {
        auto group = NewLoopbackGroup(2, testing::CommunicatorOps());
        OnEveryRank(group, [](Communicator& c) {
          CpuStream cpu;
          float x[2] = {};
          (void)c.AllReduceSum(x, c.rank() + 1, DType::kF32, cpu.stream);
        });
      },
      "all-reduce of 4 bytes");
}

}  // namespace
}  // namespace tessera
