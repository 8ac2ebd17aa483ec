// Run under mpirun by all ranks at once, each on a GPU of its own.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <cuda_runtime_api.h>

#include "kernels/comm/peer_region_config.h"
#include "kernels/comm/residual_add.h"
#include "kernels/norm/rms_norm.h"
#include "parallel/nccl_communicator.h"
#include "tests/kernels/comm/comm_reference.h"
#include "tests/parallel/mpi_world.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::NormCase;
using testing::RandomBf16;
using testing::StatusIs;
using testing::WorldRank;
using testing::WorldSize;

#define ASSERT_CUDA(call) ASSERT_EQ(call, cudaSuccess)

constexpr int64_t kPeerRows = 8;
constexpr int64_t kD = 3584;

const Ops& CudaOps() {
  static const Ops ops = [] {
    Ops o{};
    o.rms_norm = RmsNormCuda;
    o.residual_add = ResidualAddCuda;
    return o;
  }();
  return ops;
}

// The parameter says whether small operations go peer to peer or all go through NCCL.
enum class Way { kPeers, kNcclAlone };

// A bf16 array on the device, with words past its end that must stay as they are.
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<uint16_t>& values) : count_(values.size()) {
    EXPECT_EQ(cudaMalloc(&data_, (count_ + kGuard) * 2), cudaSuccess);
    std::vector<uint16_t> all = values;
    all.resize(count_ + kGuard, 0x5a5a);
    EXPECT_EQ(cudaMemcpy(data_, all.data(), all.size() * 2, cudaMemcpyHostToDevice), cudaSuccess);
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    std::vector<uint16_t> all(count_ + kGuard);
    if (cudaMemcpy(all.data(), data_, all.size() * 2, cudaMemcpyDeviceToHost) == cudaSuccess) {
      EXPECT_TRUE(std::all_of(all.begin() + static_cast<std::ptrdiff_t>(count_), all.end(),
                              [](uint16_t v) { return v == 0x5a5a; }))
          << "written past the end";
    }
    cudaFree(data_);
  }
  void* get() const { return data_; }
  void Set(const std::vector<uint16_t>& values, cudaStream_t stream) {
    EXPECT_EQ(cudaMemcpyAsync(data_, values.data(), count_ * 2, cudaMemcpyHostToDevice, stream),
              cudaSuccess);
  }
  std::vector<uint16_t> Get() const {
    std::vector<uint16_t> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, count_ * 2, cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  static constexpr size_t kGuard = 64;
  void* data_ = nullptr;
  size_t count_;
};

// The values are those of rank 0, in every bit.
void ExpectSameOnAllRanks(const std::vector<uint16_t>& values) {
  std::vector<uint16_t> first = values;
  MPI_Bcast(first.data(), static_cast<int>(2 * first.size()), MPI_BYTE, 0, MPI_COMM_WORLD);
  EXPECT_TRUE(first == values);
}

class NcclFixture : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { KeepNvlinkMulticastOff(); }

  void Form(Way way) {
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess) gpus = 0;
    if (gpus < WorldSize()) GTEST_SKIP() << gpus << " GPUs for " << WorldSize() << " ranks";
    ASSERT_CUDA(cudaSetDevice(WorldRank()));
    // The region lies inside a larger allocation, as in the arena.
    const int64_t bytes = PeerRegionBytes(WorldSize(), kPeerRows, kD, DType::kBf16);
    ASSERT_CUDA(cudaMalloc(&arena_, static_cast<size_t>(bytes + kOffset)));
    ASSERT_CUDA(cudaStreamCreateWithFlags(&stream_.cuda, cudaStreamNonBlocking));
    stream_.device = Device::kCuda;
    NcclOptions options;
    if (way == Way::kPeers) {
      options.peer_region = static_cast<char*>(arena_) + kOffset;
      options.peer_region_bytes = bytes;
    }
    auto group = NewNcclCommunicator(MPI_COMM_WORLD, CudaOps(), options);
    ASSERT_OK(group);
    group_ = *std::move(group);
  }

  void TearDown() override {
    group_.reset();
    MPI_Barrier(MPI_COMM_WORLD);  // peers have unmapped the arena
    if (stream_.cuda != nullptr) cudaStreamDestroy(stream_.cuda);
    if (arena_ != nullptr) cudaFree(arena_);
  }

  void Finish() { ASSERT_CUDA(cudaStreamSynchronize(stream_.cuda)); }

  // A stream that never ends would hold every later CUDA call and so the report of it: then all
  // ranks are ended here.
  void ExpectStreamEnds(absl::Duration limit) {
    const absl::Time deadline = absl::Now() + limit;
    cudaError_t state = cudaErrorNotReady;
    while ((state = cudaStreamQuery(stream_.cuda)) == cudaErrorNotReady) {
      if (absl::Now() > deadline) {
        std::printf("rank %d: its stream goes on %s after the abort\n", WorldRank(),
                    absl::FormatDuration(limit).c_str());
        std::fflush(stdout);
        MPI_Abort(MPI_COMM_WORLD, 1);
      }
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(state, cudaSuccess);
  }

  static constexpr int64_t kOffset = 4096 + 256;
  void* arena_ = nullptr;
  Stream stream_;
  std::unique_ptr<Communicator> group_;
};

class NcclTest : public NcclFixture, public ::testing::WithParamInterface<Way> {
 protected:
  void SetUp() override { Form(GetParam()); }

  void ExpectNorm(int64_t t, int64_t d, int call) {
    SCOPED_TRACE(absl::StrCat("t ", t, " d ", d));
    const NormCase c = {.ranks = WorldSize(), .t = t, .d = d};
    const std::vector<uint16_t> before = RandomBf16(call, 50, t * d);
    const std::vector<uint16_t> weight_values = RandomBf16(call, 51, d);
    DeviceArray partial(RandomBf16(call, WorldRank(), t * d)), residual(before);
    DeviceArray weight(weight_values), y(std::vector<uint16_t>(before.size(), 0xffff));
    ASSERT_OK(group_->AllReduceNorm({.partial = partial.get(),
                                     .residual = residual.get(),
                                     .weight = weight.get(),
                                     .y = y.get(),
                                     .t = t,
                                     .d = d,
                                     .eps = c.eps,
                                     .dtype = DType::kBf16},
                                    stream_));
    Finish();
    const testing::NormReference want = testing::ReferenceNorm(c, call, before, weight_values);
    // Partial sums that cancel leave their own rounding behind: sums of 9 normals reach 10.
    const bool one_shot =
        GetParam() == Way::kPeers && t * PeerCells(2 * d) <= kPeerRows * PeerCells(2 * kD);
    const double floor = one_shot ? 0.01 : 4;
    const std::vector<uint16_t> got_residual = residual.Get(), got_y = y.Get();
    const double rounding = testing::kBf16Rounding;
    EXPECT_LE(testing::WorstError(got_residual, want.residual, floor),
              (one_shot ? 1 : 1 + WorldSize()) * rounding);
    EXPECT_LE(testing::WorstError(got_y, want.y, floor),
              (one_shot ? 3 : 3 + WorldSize()) * rounding);
    ExpectSameOnAllRanks(got_residual);
    ExpectSameOnAllRanks(got_y);
  }
};
INSTANTIATE_TEST_SUITE_P(Ways, NcclTest, ::testing::Values(Way::kPeers, Way::kNcclAlone),
                         [](const auto& info) {
                           return info.param == Way::kPeers ? std::string("Peers")
                                                            : std::string("NcclAlone");
                         });

// Odd row counts, and rows beyond the region, which go through NCCL.
TEST_P(NcclTest, AllReduceNormMatchesDoubleAndIsBitEqual) {
  int call = 0;
  for (const int64_t d : {kD, int64_t{896}, int64_t{1032}, int64_t{8192}})
    for (const int64_t t : {1, 3, 7, 8, 2, 9, 33, 1}) ExpectNorm(t, d, ++call);
}

TEST_P(NcclTest, WithoutWeightOnlyTheResidualChanges) {
  for (const int64_t t : {3, 20}) {
    const std::vector<uint16_t> before = RandomBf16(1, 50, t * kD);
    DeviceArray partial(RandomBf16(1, WorldRank(), t * kD)), residual(before);
    ASSERT_OK(group_->AllReduceNorm({.partial = partial.get(),
                                     .residual = residual.get(),
                                     .t = t,
                                     .d = kD,
                                     .dtype = DType::kBf16},
                                    stream_));
    Finish();
    const NormCase c = {.ranks = WorldSize(), .t = t, .d = kD};
    const testing::NormReference want =
        testing::ReferenceNorm(c, 1, before, std::vector<uint16_t>(kD));
    EXPECT_LE(testing::WorstError(residual.Get(), want.residual, 4),
              (1 + WorldSize()) * testing::kBf16Rounding);
    ExpectSameOnAllRanks(residual.Get());
  }
}

TEST_P(NcclTest, SumIsCloseToDoubleAndBitEqual) {
  for (const int64_t count : {1, 7, 4099, 8 * 3584, 1000003}) {
    SCOPED_TRACE(count);
    const int call = static_cast<int>(count % 1000);
    DeviceArray data(RandomBf16(call, WorldRank(), count));
    ASSERT_OK(group_->AllReduceSum(data.get(), count, DType::kBf16, stream_));
    Finish();
    std::vector<double> want(static_cast<size_t>(count));
    for (int r = 0; r < WorldSize(); ++r) {
      const std::vector<uint16_t> part = RandomBf16(call, r, count);
      for (size_t i = 0; i < want.size(); ++i) want[i] += Bf16ToFloat(part[i]);
    }
    EXPECT_LE(testing::WorstError(data.Get(), want, 4), WorldSize() * testing::kBf16Rounding);
    ExpectSameOnAllRanks(data.Get());
  }
}

TEST_P(NcclTest, GathersInRankOrder) {
  for (const int64_t count : {1, 2, 6, 4001, 500002}) {
    SCOPED_TRACE(count);
    std::vector<uint16_t> want;
    for (int r = 0; r < WorldSize(); ++r) {
      const std::vector<uint16_t> part = RandomBf16(5, r, count);
      want.insert(want.end(), part.begin(), part.end());
    }
    DeviceArray send(RandomBf16(5, WorldRank(), count));
    DeviceArray recv(std::vector<uint16_t>(want.size(), 0));
    ASSERT_OK(group_->AllGather(send.get(), recv.get(), 2 * count, stream_));
    Finish();
    EXPECT_TRUE(recv.Get() == want);
  }
}

TEST_P(NcclTest, BroadcastsFromEveryRoot) {
  for (int root = 0; root < WorldSize(); ++root) {
    DeviceArray data(RandomBf16(6, WorldRank(), 1001));
    ASSERT_OK(group_->Broadcast(data.get(), 2002, root, stream_));
    Finish();
    EXPECT_TRUE(data.Get() == RandomBf16(6, root, 1001));
  }
}

TEST_P(NcclTest, MessagesTravelDownTheLine) {
  const std::vector<uint16_t> message = RandomBf16(7, 0, 5001);
  DeviceArray data(WorldRank() == 0 ? message : std::vector<uint16_t>(message.size()));
  if (WorldRank() > 0) {
    ASSERT_OK(group_->Recv(data.get(), 10002, WorldRank() - 1, stream_));
  }
  if (WorldRank() + 1 < WorldSize()) {
    ASSERT_OK(group_->Send(data.get(), 10002, WorldRank() + 1, stream_));
  }
  Finish();
  EXPECT_TRUE(data.Get() == message);
}

TEST_P(NcclTest, RefusesBadArguments) {
  const auto invalid = StatusIs(absl::StatusCode::kInvalidArgument, _);
  EXPECT_THAT(group_->AllReduceSum(nullptr, -1, DType::kBf16, stream_), invalid);
  EXPECT_THAT(group_->AllReduceSum(nullptr, 1, DType::kI32, stream_),
              StatusIs(absl::StatusCode::kUnimplemented, _));
  EXPECT_THAT(group_->AllGather(nullptr, nullptr, -1, stream_), invalid);
  EXPECT_THAT(group_->Send(nullptr, 1, WorldSize(), stream_), invalid);
  EXPECT_THAT(group_->Recv(nullptr, 1, WorldRank(), stream_), invalid);
  EXPECT_THAT(group_->Broadcast(nullptr, 1, -1, stream_), invalid);
}

// All operations in one graph, replayed with other data each time; an odd number of one-shot
// operations, so that the halves of the region alternate between replays.
TEST_P(NcclTest, ReplayedGraphsSeeChangingData) {
  constexpr int kReplays = 1000;
  constexpr int64_t kT = 3;
  const NormCase c = {.ranks = WorldSize(), .t = kT, .d = kD};
  const std::vector<uint16_t> weight_values = RandomBf16(0, 51, kD);
  const std::vector<uint16_t> zeros(static_cast<size_t>(kT * kD));
  DeviceArray partial(zeros), residual(zeros), weight(weight_values), y(zeros), sum(zeros);
  DeviceArray gathered(std::vector<uint16_t>(zeros.size() * static_cast<size_t>(WorldSize())));
  auto enqueue = [&]() -> absl::Status {
    const absl::Status normed = group_->AllReduceNorm({.partial = partial.get(),
                                                       .residual = residual.get(),
                                                       .weight = weight.get(),
                                                       .y = y.get(),
                                                       .t = kT,
                                                       .d = kD,
                                                       .eps = c.eps,
                                                       .dtype = DType::kBf16},
                                                      stream_);
    if (!normed.ok()) return normed;
    const absl::Status summed = group_->AllReduceSum(sum.get(), kT * kD, DType::kBf16, stream_);
    if (!summed.ok()) return summed;
    return group_->AllGather(y.get(), gathered.get(), 2 * 256, stream_);
  };
  ASSERT_OK(enqueue());  // lets NCCL connect outside the capture
  Finish();
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  ASSERT_CUDA(cudaStreamBeginCapture(stream_.cuda, cudaStreamCaptureModeThreadLocal));
  ASSERT_OK(enqueue());
  ASSERT_CUDA(cudaStreamEndCapture(stream_.cuda, &graph));
  ASSERT_CUDA(cudaGraphInstantiate(&replay, graph, 0));
  ASSERT_CUDA(cudaGraphDestroy(graph));
  for (int i = 0; i < kReplays; ++i) {
    const int call = i % 10 + 1;  // the references of ten calls suffice; ranks see each in turn
    const bool checked = i < 10 || i % 97 == 0;
    const std::vector<uint16_t> mine = RandomBf16(call, WorldRank(), kT * kD);
    partial.Set(mine, stream_.cuda);
    sum.Set(mine, stream_.cuda);
    residual.Set(zeros, stream_.cuda);
    ASSERT_CUDA(cudaGraphLaunch(replay, stream_.cuda));
    if (!checked) continue;
    Finish();
    const testing::NormReference want = testing::ReferenceNorm(c, call, zeros, weight_values);
    const double limit = (3 + WorldSize()) * testing::kBf16Rounding;
    ASSERT_LE(testing::WorstError(residual.Get(), want.residual, 4), limit) << i;
    ASSERT_LE(testing::WorstError(sum.Get(), want.residual, 4), limit) << i;
    ASSERT_LE(testing::WorstError(y.Get(), want.y, 4), limit) << i;
    ExpectSameOnAllRanks(y.Get());
    const std::vector<uint16_t> parts = gathered.Get(), own = y.Get();
    for (size_t r = 0; r < static_cast<size_t>(WorldSize()); ++r)
      ASSERT_TRUE(std::equal(own.begin(), own.begin() + 256,
                             parts.begin() + static_cast<std::ptrdiff_t>(256 * r)))
          << i;
  }
  Finish();
  ASSERT_CUDA(cudaGraphExecDestroy(replay));
}

// Far below the 20 s after which a kernel gives up by itself; Abort() takes up to 1 s of it.
constexpr absl::Duration kAbortLimit = absl::Seconds(3);

TEST_P(NcclTest, AbortEndsAKernelThatWaitsForAPeer) {
  if (WorldSize() == 1) GTEST_SKIP() << "needs a peer";
  DeviceArray data(RandomBf16(8, WorldRank(), 1024));
  ASSERT_OK(group_->AllReduceSum(data.get(), 1024, DType::kBf16, stream_));  // connects
  Finish();
  if (WorldRank() == 0) {
    const absl::Time start = absl::Now();
    EXPECT_OK(group_->AllReduceSum(data.get(), 1024, DType::kBf16, stream_));
    EXPECT_EQ(cudaStreamQuery(stream_.cuda), cudaErrorNotReady);
    group_->Abort();
    ExpectStreamEnds(kAbortLimit);
    EXPECT_LT(absl::Now() - start, kAbortLimit);
  }
  MPI_Barrier(MPI_COMM_WORLD);  // the peers never come, but are there until rank 0 has given up
  group_->Abort();
  EXPECT_THAT(group_->AllReduceSum(data.get(), 1024, DType::kBf16, stream_),
              StatusIs(absl::StatusCode::kUnavailable, _));
  EXPECT_THAT(group_->Broadcast(data.get(), 1024, 0, stream_),
              StatusIs(absl::StatusCode::kUnavailable, _));
}

class NcclAloneTest : public NcclFixture {
 protected:
  void SetUp() override { Form(Way::kNcclAlone); }
};

// The first operation of a group: NCCL connects to the peers inside the call.
TEST_F(NcclAloneTest, AbortEndsACallThatConnectsToAPeer) {
  if (WorldSize() == 1) GTEST_SKIP() << "needs a peer";
  DeviceArray data(RandomBf16(8, WorldRank(), 1024));
  if (WorldRank() == 0) {
    const absl::Time start = absl::Now();
    std::thread aborter([this] {
      absl::SleepFor(absl::Milliseconds(500));  // nothing tells that NCCL has begun to wait
      group_->Abort();
    });
    const absl::Status status = group_->AllReduceSum(data.get(), 1024, DType::kBf16, stream_);
    // An NCCL that connects when the group forms only enqueues here.
    if (!status.ok()) {
      EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable, _));
    }
    aborter.join();
    ExpectStreamEnds(kAbortLimit);
    EXPECT_LT(absl::Now() - start, kAbortLimit);
  }
  MPI_Barrier(MPI_COMM_WORLD);
  group_->Abort();
}

TEST(NewNcclCommunicator, RefusesToStartWithMulticastOn) {
  const char* before = std::getenv("NCCL_NVLS_ENABLE");
  const std::string kept = before != nullptr ? before : "";
  setenv("NCCL_NVLS_ENABLE", "1", 1);
  EXPECT_THAT(NewNcclCommunicator(MPI_COMM_WORLD, CudaOps(), {}),
              StatusIs(absl::StatusCode::kFailedPrecondition, _));
  setenv("NCCL_NVLS_ENABLE", "0", 1);
  if (before != nullptr) setenv("NCCL_NVLS_ENABLE", kept.c_str(), 1);
}

}  // namespace
}  // namespace tessera
