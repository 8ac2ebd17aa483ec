#include "parallel/self_communicator.h"

#include "tests/parallel/contract.h"

namespace tessera {
namespace {

using testing::CpuStream;
using testing::StatusIs;

TEST(SelfCommunicator, SumOfOneRankIsItself) {
  auto self = NewSelfCommunicator(testing::CommunicatorOps());
  testing::ExpectSumInRankOrder(*self, 100);
}

TEST(SelfCommunicator, AllReduceNormWritesTheOrdersAskedFor) {
  auto self = NewSelfCommunicator(testing::CommunicatorOps());
  testing::ExpectAllReduceNormInOrders(*self, 3, 136);
}

TEST(SelfCommunicator, AllReduceNormMatchesFormula) {
  auto self = NewSelfCommunicator(testing::CommunicatorOps());
  testing::ExpectAllReduceNorm(*self, 2, 64);
}
TEST(SelfCommunicator, WithoutWeightOnlyTheResidualChanges) {
  auto self = NewSelfCommunicator(testing::CommunicatorOps());
  testing::ExpectResidualOnlyWithoutWeight(*self);
}
TEST(SelfCommunicator, GatherCopiesUnlessInPlace) {
  auto self = NewSelfCommunicator(testing::CommunicatorOps());
  testing::ExpectAllGather(*self, 33, testing::Placement::kOutOfPlace);
  testing::ExpectAllGather(*self, 33, testing::Placement::kInPlace);
}
TEST(SelfCommunicator, BroadcastKeepsTheData) {
  auto self = NewSelfCommunicator(testing::CommunicatorOps());
  testing::ExpectBroadcastFromEveryRoot(*self, 10);
}
TEST(SelfCommunicator, RefusesBadArguments) {
  auto self = NewSelfCommunicator(testing::CommunicatorOps());
  testing::ExpectArgumentErrors(*self);
}
TEST(SelfCommunicator, IsUnavailableAfterAbort) {
  auto self = NewSelfCommunicator(testing::CommunicatorOps());
  self->Abort();
  CpuStream cpu;
  float x = 0;
  EXPECT_THAT(self->AllReduceSum(&x, 1, DType::kF32, cpu.stream),
              StatusIs(absl::StatusCode::kUnavailable, ::testing::_));
}

}  // namespace
}  // namespace tessera
