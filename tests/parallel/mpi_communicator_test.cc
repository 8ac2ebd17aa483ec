// Run under mpirun by all ranks at once.
#include "parallel/mpi_communicator.h"

#include <numeric>
#include <thread>

#include <absl/time/clock.h>

#include "tests/parallel/contract.h"
#include "tests/parallel/mpi_world.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::CpuStream;
using testing::StatusIs;
using testing::WorldRank;
using testing::WorldSize;

// A group of all ranks.
class MpiCommunicatorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<int> ranks(static_cast<size_t>(WorldSize()));
    std::iota(ranks.begin(), ranks.end(), 0);
    ASSERT_OK_AND_ASSIGN(const MPI_Comm comm, CreateGroup(MPI_COMM_WORLD, ranks, 1));
    group_ = NewMpiCommunicator(comm, testing::CommunicatorOps());
  }
  std::unique_ptr<Communicator> group_;
};

// Sizes on both sides of the one-hop limit (4096 floats) and of the block (1048576 floats).
TEST_F(MpiCommunicatorTest, SumsInRankOrderOnEveryRank) {
  for (const int64_t count : {0, 1, 7, 4096, 4097, 5003, 1048576, 1048577, 2500001}) {
    SCOPED_TRACE(count);
    testing::ExpectSumInRankOrder(*group_, count);
  }
}
TEST_F(MpiCommunicatorTest, SumIsCloseToDouble) { testing::ExpectSumCloseToDouble(*group_, 9001); }
TEST_F(MpiCommunicatorTest, SumOfBf16IsRoundedOnce) {
  testing::ExpectBf16SumRoundedOnce(*group_, 37);
}
TEST_F(MpiCommunicatorTest, AllReduceNormWritesTheOrdersAskedFor) {
  testing::ExpectAllReduceNormInOrders(*group_, 3, 136);
}

TEST_F(MpiCommunicatorTest, AllReduceNormMatchesFormula) {
  testing::ExpectAllReduceNorm(*group_, 1, 136);
  testing::ExpectAllReduceNorm(*group_, 45, 512);
}
TEST_F(MpiCommunicatorTest, WithoutWeightOnlyTheResidualChanges) {
  testing::ExpectResidualOnlyWithoutWeight(*group_);
}
TEST_F(MpiCommunicatorTest, GathersInRankOrder) {
  for (const int64_t bytes : {0, 1, 4000, 300007}) {
    SCOPED_TRACE(bytes);
    testing::ExpectAllGather(*group_, bytes, testing::Placement::kOutOfPlace);
    testing::ExpectAllGather(*group_, bytes, testing::Placement::kInPlace);
  }
}
TEST_F(MpiCommunicatorTest, BroadcastsFromEveryRoot) {
  testing::ExpectBroadcastFromEveryRoot(*group_, 3);
  testing::ExpectBroadcastFromEveryRoot(*group_, 200001);
}
TEST_F(MpiCommunicatorTest, MessagesArriveInOrder) {
  testing::ExpectMessagesInOrderDownTheLine(*group_, 10);
  testing::ExpectMessagesInOrderDownTheLine(*group_, 100000);
}
// Every rank sends to all others before it receives anything: ends only if no Send waits for its
// Recv.
TEST_F(MpiCommunicatorTest, SmallSendsDoNotWaitForTheirReceivers) {
  const int size = group_->size(), rank = group_->rank();
  const Stream stream;
  for (const int64_t bytes : {int64_t{100}, int64_t{10000}, Communicator::kBufferedSendBytes}) {
    SCOPED_TRACE(bytes);
    const std::vector<char> mine(static_cast<size_t>(bytes), static_cast<char>(rank + 1));
    for (int peer = 0; peer < size; ++peer) {
      if (peer != rank) ASSERT_OK(group_->Send(mine.data(), bytes, peer, stream));
    }
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      std::vector<char> theirs(static_cast<size_t>(bytes));
      ASSERT_OK(group_->Recv(theirs.data(), bytes, peer, stream));
      EXPECT_EQ(theirs, std::vector<char>(theirs.size(), static_cast<char>(peer + 1)));
    }
  }
}
TEST_F(MpiCommunicatorTest, RefusesBadArguments) { testing::ExpectArgumentErrors(*group_); }

TEST_F(MpiCommunicatorTest, AbortFromAnotherThreadEndsAWait) {
  if (WorldSize() == 1) GTEST_SKIP() << "needs a peer to wait for";
  const int last = WorldSize() - 1;
  CpuStream cpu;
  float x = 0;
  if (WorldRank() == last) {
    // Nobody ever sends this.
    std::thread aborter([&] { group_->Abort(); });
    EXPECT_THAT(group_->Recv(&x, 4, 0, cpu.stream), StatusIs(absl::StatusCode::kUnavailable, _));
    aborter.join();
    EXPECT_THAT(group_->AllReduceSum(&x, 1, DType::kF32, cpu.stream),
                StatusIs(absl::StatusCode::kUnavailable, _));
  }
  MPI_Barrier(MPI_COMM_WORLD);
}

TEST(CreateGroup, FormsAGroupInTheOrderGivenWithoutTheOthers) {
  if (WorldSize() < 3) GTEST_SKIP() << "needs 3 ranks";
  if (WorldRank() == 2 || WorldRank() == 0) {
    ASSERT_OK_AND_ASSIGN(const MPI_Comm comm, CreateGroup(MPI_COMM_WORLD, {2, 0}, 7));
    auto group = NewMpiCommunicator(comm, testing::CommunicatorOps());
    EXPECT_EQ(group->size(), 2);
    EXPECT_EQ(group->rank(), WorldRank() == 2 ? 0 : 1);
    testing::ExpectSumInRankOrder(*group, 10);
  }
}

TEST(CreateGroup, RefusesRanksThatMakeNoGroup) {
  const int self = WorldRank(), size = WorldSize();
  const auto invalid = StatusIs(absl::StatusCode::kInvalidArgument, _);
  EXPECT_THAT(CreateGroup(MPI_COMM_WORLD, {}, 1), invalid);
  EXPECT_THAT(CreateGroup(MPI_COMM_WORLD, {self, size}, 1), invalid);
  EXPECT_THAT(CreateGroup(MPI_COMM_WORLD, {self, -1}, 1), invalid);
  EXPECT_THAT(CreateGroup(MPI_COMM_WORLD, {self, self}, 1), invalid);
  if (size > 1) {
    EXPECT_THAT(CreateGroup(MPI_COMM_WORLD, {(self + 1) % size}, 1), invalid);
  }
}

TEST(NewMpiCommunicator, LibraryRefusalIsInternal) {
  MPI_Comm comm;
  ASSERT_EQ(MPI_Comm_dup(MPI_COMM_WORLD, &comm), MPI_SUCCESS);
  auto group = NewMpiCommunicator(comm, testing::CommunicatorOps());
  if (WorldSize() == 1) GTEST_SKIP() << "needs a peer";
  CpuStream cpu;
  // A null buffer with a positive count, too large to be copied first: MPI_ERR_BUFFER.
  EXPECT_THAT(group->Send(nullptr, Communicator::kBufferedSendBytes + 8,
                          (WorldRank() + 1) % WorldSize(), cpu.stream),
              StatusIs(absl::StatusCode::kInternal, _));
}

}  // namespace
}  // namespace tessera
