// One-shot collectives among ranks played by streams of one GPU: the kernels do not know that their
// peers' regions lie in the same memory.
#include <algorithm>
#include <memory>
#include <numeric>

#include <cuda_runtime_api.h>

#include "common/float16.h"
#include "kernels/comm/one_shot_all_reduce.h"
#include "kernels/comm/one_shot_gather.h"
#include "kernels/comm/residual_add.h"
#include "tests/kernels/comm/comm_reference.h"
#include "tests/support/column_order.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::_;
using testing::ColumnOrder;
using testing::ExpectOrdered;
using testing::NormCase;
using testing::RandomBf16;
using testing::RandomOrder;
using testing::StatusIs;

#define ASSERT_CUDA(call) ASSERT_EQ(call, cudaSuccess)

bool HasGpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

template <typename T>
struct DeviceVector {
  explicit DeviceVector(const std::vector<T>& values) : count(values.size()) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data), std::max<size_t>(count, 1) * sizeof(T)),
              cudaSuccess);
    Set(values);
  }
  DeviceVector(const DeviceVector&) = delete;
  DeviceVector& operator=(const DeviceVector&) = delete;
  ~DeviceVector() { cudaFree(data); }
  void Set(const std::vector<T>& values) {
    EXPECT_EQ(cudaMemcpy(data, values.data(), count * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  std::vector<T> Get() const {
    std::vector<T> values(count);
    EXPECT_EQ(cudaMemcpy(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }
  T* data = nullptr;
  size_t count;
};

// `ranks` peers with regions of `bytes` on the current device.
class FakePeers {
 public:
  FakePeers(int ranks, int64_t bytes, uint64_t spin_limit_ns = 10'000'000'000) {
    PeerGroup group;
    group.ranks = ranks;
    group.cells = PeerRegionCells(ranks, bytes);
    group.spin_limit_ns = spin_limit_ns;
    const auto counters = static_cast<size_t>(PeerCountersOffset(ranks, group.cells));
    EXPECT_EQ(cudaHostAlloc(reinterpret_cast<void**>(&words_), 8, cudaHostAllocMapped),
              cudaSuccess);
    words_[0] = words_[1] = 0;
    group.abort_flag = words_;
    group.missing_rank = words_ + 1;
    for (int r = 0; r < ranks; ++r) {
      EXPECT_EQ(cudaMalloc(&group.regions[r], static_cast<size_t>(bytes)), cudaSuccess);
      EXPECT_EQ(cudaMemset(group.regions[r], 0, static_cast<size_t>(bytes)), cudaSuccess);
      EXPECT_EQ(cudaMemset(group.regions[r], 0xff, counters), cudaSuccess);
      EXPECT_EQ(cudaStreamCreateWithFlags(&streams_.emplace_back(), cudaStreamNonBlocking),
                cudaSuccess);
    }
    for (int r = 0; r < ranks; ++r) {
      groups_.push_back(group);
      groups_.back().rank = r;
    }
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  ~FakePeers() {
    for (const cudaStream_t stream : streams_) cudaStreamDestroy(stream);
    for (void* region : groups_[0].regions) cudaFree(region);
    cudaFreeHost(words_);
  }
  int ranks() const { return static_cast<int>(groups_.size()); }
  const PeerGroup& group(int r) const { return groups_[static_cast<size_t>(r)]; }
  cudaStream_t stream(int r) const { return streams_[static_cast<size_t>(r)]; }
  volatile uint32_t* words() { return words_; }

 private:
  std::vector<PeerGroup> groups_;
  std::vector<cudaStream_t> streams_;
  uint32_t* words_ = nullptr;
};

// Every rank's tensors of an AllReduceNorm.
struct NormRank {
  NormRank(const NormCase& c, int call, int rank, const std::vector<uint16_t>& before,
           const std::vector<uint16_t>& w)
      : partial(RandomBf16(call, rank, c.t * c.d)),
        residual(before),
        weight(w),
        y(std::vector<uint16_t>(before.size(), 0xffff)) {}
  DeviceVector<uint16_t> partial, residual, weight, y;
};

OneShotAllReduceNormArgs ArgsFor(const FakePeers& peers, int r, const NormCase& c,
                                 const NormRank& rank, const OneShotShape& shape) {
  return {.peers = peers.group(r),
          .partial = rank.partial.data,
          .residual = rank.residual.data,
          .weight = rank.weight.data,
          .y = rank.y.data,
          .t = c.t,
          .d = c.d,
          .eps = c.eps,
          .dtype = DType::kBf16,
          .shape = shape};
}

class OneShotTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
  }
  // Runs call number `call` on all ranks and checks it.
  void ExpectNorm(FakePeers& peers, const NormCase& c, const OneShotShape& shape, int call) {
    const std::vector<uint16_t> before = RandomBf16(call, 50, c.t * c.d);
    const std::vector<uint16_t> weight = RandomBf16(call, 51, c.d);
    std::vector<std::unique_ptr<NormRank>> ranks;
    for (int r = 0; r < c.ranks; ++r)
      ranks.push_back(std::make_unique<NormRank>(c, call, r, before, weight));
    for (int r = 0; r < c.ranks; ++r)
      ASSERT_OK(LaunchOneShotAllReduceNorm(
          ArgsFor(peers, r, c, *ranks[static_cast<size_t>(r)], shape), peers.stream(r)));
    ASSERT_CUDA(cudaDeviceSynchronize());
    const testing::NormReference want = testing::ReferenceNorm(c, call, before, weight);
    const std::vector<uint16_t> residual = ranks[0]->residual.Get(), y = ranks[0]->y.Get();
    EXPECT_LE(testing::WorstError(residual, want.residual, 0.01), testing::kBf16Rounding);
    EXPECT_LE(testing::WorstError(y, want.y, 0.01), 2 * testing::kBf16Rounding);
    for (const auto& rank : ranks) {
      EXPECT_EQ(rank->residual.Get(), residual);
      EXPECT_EQ(rank->y.Get(), y);
    }
  }
};

TEST_F(OneShotTest, NormMatchesDoubleAndIsBitEqualAcrossRanks) {
  for (const int ranks : {2, 3, 4, 8})
    for (const int64_t d : {8, 896, 1032, 3584, 8192, 12288}) {
      FakePeers peers(ranks, PeerRegionBytes(ranks, 5, d, DType::kBf16));
      // Row counts rise and fall, so that cells are used different numbers of times.
      for (const int64_t t : {1, 5, 3, 1, 5, 2}) {
        SCOPED_TRACE(absl::StrCat("ranks ", ranks, " d ", d, " t ", t));
        ExpectNorm(peers, {.ranks = ranks, .t = t, .d = d}, ChooseOneShotShape(2 * d, 90),
                   static_cast<int>(t * 7 + d));
      }
    }
}

// The same bits as without copies, which the case before checks.
TEST_F(OneShotTest, CopiesFollowOneAnotherInTheirOrders) {
  for (const int64_t d : {8, 1032, 8192}) {
    SCOPED_TRACE(d);
    const NormCase c = {.ranks = 2, .t = 3, .d = d};
    const OneShotShape shape = ChooseOneShotShape(2 * d, 90);
    FakePeers peers(c.ranks, PeerRegionBytes(c.ranks, c.t, d, DType::kBf16));
    const std::vector<uint16_t> before = RandomBf16(1, 50, c.t * d), weight = RandomBf16(1, 51, d);
    const ColumnOrder first = RandomOrder(d, 1), last = RandomOrder(d, 2);
    const DeviceVector<int32_t> first_list(first.places), last_list(last.places);
    const ColumnCopies copies = {
        {{first_list.data, first.width()}, {}, {last_list.data, last.width()}}, 3};
    const auto run = [&](const ColumnCopies& in) {
      const std::vector<uint16_t> none(static_cast<size_t>(c.t * in.Width(d)), 0xffff);
      std::vector<std::unique_ptr<NormRank>> ranks;
      std::vector<std::unique_ptr<DeviceVector<uint16_t>>> y;
      for (int r = 0; r < c.ranks; ++r) {
        ranks.push_back(std::make_unique<NormRank>(c, 1, r, before, weight));
        y.push_back(std::make_unique<DeviceVector<uint16_t>>(none));
      }
      for (int r = 0; r < c.ranks; ++r) {
        OneShotAllReduceNormArgs args = ArgsFor(peers, r, c, *ranks[static_cast<size_t>(r)], shape);
        args.y = y[static_cast<size_t>(r)]->data;
        args.copies = in;
        EXPECT_OK(LaunchOneShotAllReduceNorm(args, peers.stream(r)));
      }
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      std::vector<float> values;
      for (const uint16_t bits : y[1]->Get()) values.push_back(Bf16ToFloat(bits));
      return values;
    };
    const std::vector<float> plain = run({}), got = run(copies);
    ExpectOrdered(got, 0, plain, first, c.t);
    const auto middle = got.begin() + c.t * first.width();
    EXPECT_EQ(std::vector<float>(middle, middle + c.t * d), plain);
    ExpectOrdered(got, c.t * (first.width() + d), plain, last, c.t);
  }
}

TEST_F(OneShotTest, AnOrderNarrowerThanTheRowIsInvalid) {
  OneShotAllReduceNormArgs args = {.t = 1, .d = 64};
  args.peers.cells = 1;
  args.shape = {1, 1};
  const int32_t unread = 0;
  args.copies = {{{&unread, 48}}, 1};
  EXPECT_THAT(LaunchOneShotAllReduceNorm(args, nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
}

TEST_F(OneShotTest, EveryShapeOfARowGivesTheFormula) {
  constexpr int64_t kD = 8192;
  FakePeers peers(2, PeerRegionBytes(2, 3, kD, DType::kBf16));
  for (const int cells_per_block : {1, 2, 3, 4, 8}) {
    const int blocks = (8 + cells_per_block - 1) / cells_per_block;
    SCOPED_TRACE(cells_per_block);
    ExpectNorm(peers, {.ranks = 2, .t = 3, .d = kD}, {cells_per_block, blocks}, cells_per_block);
  }
}

TEST_F(OneShotTest, OperationsOfDifferentKindsShareARegion) {
  constexpr int64_t kD = 1024;
  FakePeers peers(2, PeerRegionBytes(2, 4, kD, DType::kBf16));
  for (int call = 0; call < 6; ++call) {
    ExpectNorm(peers, {.ranks = 2, .t = 1 + call % 4, .d = kD}, ChooseOneShotShape(2 * kD, 90),
               call);
    const int64_t words = 700 + call;
    std::vector<std::unique_ptr<DeviceVector<int32_t>>> recv;
    for (int r = 0; r < 2; ++r) {
      std::vector<int32_t> values(static_cast<size_t>(2 * words), -2);
      std::fill_n(values.begin() + r * words, words, r == 0 ? -1 : call);  // -1: all bits set
      recv.push_back(std::make_unique<DeviceVector<int32_t>>(values));
      ASSERT_OK(LaunchOneShotGather({.peers = peers.group(r),
                                     .send = recv.back()->data + r * words,
                                     .recv = recv.back()->data,
                                     .bytes = 4 * words},
                                    peers.stream(r)));
    }
    ASSERT_CUDA(cudaDeviceSynchronize());
    std::vector<int32_t> want(static_cast<size_t>(2 * words), -1);
    std::fill_n(want.begin() + words, words, call);
    EXPECT_EQ(recv[0]->Get(), want);
    EXPECT_EQ(recv[1]->Get(), want);
  }
}

TEST_F(OneShotTest, SumOfFloatsIsTheOrderedSum) {
  constexpr int kRanks = 3;
  FakePeers peers(kRanks, PeerRegionBytes(kRanks, 2, 4096, DType::kF32));
  for (const int64_t count : {1, 3, 4, 511, 512, 513, 8191}) {
    SCOPED_TRACE(count);
    std::vector<float> want(static_cast<size_t>(count));
    std::vector<std::unique_ptr<DeviceVector<float>>> data;
    for (int r = 0; r < kRanks; ++r) {
      std::vector<float> part;
      for (const uint16_t v : RandomBf16(static_cast<int>(count), r, count))
        part.push_back(Bf16ToFloat(v) / 3.f);
      for (size_t i = 0; i < part.size(); ++i) want[i] = r == 0 ? part[i] : want[i] + part[i];
      data.push_back(std::make_unique<DeviceVector<float>>(part));
    }
    for (int r = 0; r < kRanks; ++r)
      ASSERT_OK(LaunchOneShotAllReduceSum({.peers = peers.group(r),
                                           .data = data[static_cast<size_t>(r)]->data,
                                           .count = count,
                                           .dtype = DType::kF32},
                                          peers.stream(r)));
    ASSERT_CUDA(cudaDeviceSynchronize());
    for (const auto& rank : data) EXPECT_EQ(rank->Get(), want);
  }
}

TEST_F(OneShotTest, NansArriveAsNans) {
  FakePeers peers(2, PeerRegionBytes(2, 1, 64, DType::kBf16));
  // The pattern that marks an empty packet, and a NaN beside a number.
  const std::vector<uint16_t> bad = {0xffff, 0xffff, 0xffff, 0x3f80};
  DeviceVector<uint16_t> a(bad), b(std::vector<uint16_t>{0x3f80, 0x3f80, 0x3f80, 0x3f80});
  ASSERT_OK(LaunchOneShotAllReduceSum({.peers = peers.group(0), .data = a.data, .count = 4},
                                      peers.stream(0)));
  ASSERT_OK(LaunchOneShotAllReduceSum({.peers = peers.group(1), .data = b.data, .count = 4},
                                      peers.stream(1)));
  ASSERT_CUDA(cudaDeviceSynchronize());
  const std::vector<uint16_t> sum = a.Get();
  EXPECT_EQ(sum, b.Get());
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(Bf16ToFloat(sum[i])));
  EXPECT_EQ(sum[3], 0x4000);
}

TEST_F(OneShotTest, WorksInReplayedGraphs) {
  constexpr int kCallsInGraph = 3, kReplays = 300;  // odd: halves alternate between replays
  const NormCase c = {.ranks = 4, .t = 2, .d = 3584};
  const OneShotShape shape = ChooseOneShotShape(2 * c.d, 90);
  FakePeers peers(c.ranks, PeerRegionBytes(c.ranks, c.t, c.d, DType::kBf16));
  const std::vector<uint16_t> weight = RandomBf16(0, 51, c.d);
  const std::vector<uint16_t> zeros(static_cast<size_t>(c.t * c.d));
  std::vector<std::unique_ptr<NormRank>> ranks;
  std::vector<cudaGraphExec_t> graphs(static_cast<size_t>(c.ranks));
  for (int r = 0; r < c.ranks; ++r) {
    ranks.push_back(std::make_unique<NormRank>(c, 0, r, zeros, weight));
    cudaGraph_t graph;
    ASSERT_CUDA(cudaStreamBeginCapture(peers.stream(r), cudaStreamCaptureModeThreadLocal));
    for (int call = 0; call < kCallsInGraph; ++call)
      ASSERT_OK(
          LaunchOneShotAllReduceNorm(ArgsFor(peers, r, c, *ranks.back(), shape), peers.stream(r)));
    ASSERT_CUDA(cudaStreamEndCapture(peers.stream(r), &graph));
    ASSERT_CUDA(cudaGraphInstantiate(&graphs[static_cast<size_t>(r)], graph, 0));
    ASSERT_CUDA(cudaGraphDestroy(graph));
  }
  for (int replay = 0; replay < kReplays; ++replay) {
    for (int r = 0; r < c.ranks; ++r) {
      ranks[static_cast<size_t>(r)]->partial.Set(RandomBf16(replay, r, c.t * c.d));
      ranks[static_cast<size_t>(r)]->residual.Set(zeros);
    }
    for (int r = 0; r < c.ranks; ++r)
      ASSERT_CUDA(cudaGraphLaunch(graphs[static_cast<size_t>(r)], peers.stream(r)));
    ASSERT_CUDA(cudaDeviceSynchronize());
    const std::vector<uint16_t> residual = ranks[0]->residual.Get();
    for (const auto& rank : ranks) ASSERT_EQ(rank->residual.Get(), residual) << replay;
    // Three times the same sum, each rounded: 3 * ranks terms, 3 roundings.
    std::vector<double> want(residual.size());
    for (int r = 0; r < c.ranks; ++r) {
      const std::vector<uint16_t> part = RandomBf16(replay, r, c.t * c.d);
      for (size_t i = 0; i < want.size(); ++i) want[i] += kCallsInGraph * Bf16ToFloat(part[i]);
    }
    ASSERT_LE(testing::WorstError(residual, want, 0.1), 3 * testing::kBf16Rounding) << replay;
  }
  for (const cudaGraphExec_t graph : graphs) ASSERT_CUDA(cudaGraphExecDestroy(graph));
}

TEST_F(OneShotTest, AbortFlagEndsTheWait) {
  FakePeers peers(2, PeerRegionBytes(2, 1, 64, DType::kBf16));
  DeviceVector<uint16_t> data(RandomBf16(0, 0, 64));
  peers.words()[0] = 1;
  ASSERT_OK(LaunchOneShotAllReduceSum({.peers = peers.group(0), .data = data.data, .count = 64},
                                      peers.stream(0)));
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

TEST(OneShotDeathTest, MissingPeerTrapsAndIsNamed) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto lonely_rank = [] {
    FakePeers peers(3, PeerRegionBytes(3, 1, 64, DType::kBf16), /*spin_limit_ns=*/50'000'000);
    DeviceVector<uint16_t> data(RandomBf16(0, 0, 64));
    // Ranks 0 and 1 meet, rank 2 never comes.
    for (int r = 0; r < 2; ++r)
      (void)LaunchOneShotAllReduceSum({.peers = peers.group(r), .data = data.data, .count = 64},
                                      peers.stream(r));
    const bool failed = cudaDeviceSynchronize() != cudaSuccess;
    std::_Exit(failed && peers.words()[1] == 3 ? 42 : 1);
  };
  EXPECT_EXIT(lonely_rank(), ::testing::ExitedWithCode(42), "");
}

TEST(OneShotChecks, RefusesWhatDoesNotFit) {
  PeerGroup group;
  group.ranks = 2;
  group.cells = 2;
  const auto invalid = StatusIs(absl::StatusCode::kInvalidArgument, _);
  const OneShotShape shape = {.cells_per_block = 1, .blocks_per_row = 1};
  auto norm = [&](int64_t t, int64_t d, DType dtype) {
    return LaunchOneShotAllReduceNorm(
        {.peers = group, .t = t, .d = d, .dtype = dtype, .shape = shape}, nullptr);
  };
  EXPECT_THAT(norm(3, 1024, DType::kBf16), invalid);  // three cells
  EXPECT_THAT(norm(1, 1032, DType::kBf16), invalid);  // two cells in a shape of one
  EXPECT_THAT(norm(1, 12, DType::kBf16), invalid);    // not whole packets
  EXPECT_THAT(norm(-1, 8, DType::kBf16), invalid);
  EXPECT_THAT(norm(1, 8, DType::kF32), StatusIs(absl::StatusCode::kUnimplemented, _));
  EXPECT_OK(norm(0, 8, DType::kBf16));
  EXPECT_THAT(LaunchOneShotAllReduceSum({.peers = group, .count = -1}, nullptr), invalid);
  EXPECT_THAT(LaunchOneShotAllReduceSum({.peers = group, .count = 2049}, nullptr), invalid);
  EXPECT_THAT(
      LaunchOneShotAllReduceSum({.peers = group, .count = 1, .dtype = DType::kI32}, nullptr),
      StatusIs(absl::StatusCode::kUnimplemented, _));
  EXPECT_THAT(LaunchOneShotGather({.peers = group, .bytes = 6}, nullptr), invalid);
  EXPECT_THAT(LaunchOneShotGather({.peers = group, .bytes = -4}, nullptr), invalid);
  EXPECT_THAT(LaunchOneShotGather({.peers = group, .bytes = 2052}, nullptr), invalid);
}

TEST(ResidualAdd, RefusesWhatItCannotAdd) {
  EXPECT_THAT(ResidualAddCuda({.count = -1, .dtype = DType::kBf16}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(ResidualAddCuda({.count = 1, .dtype = DType::kF32}, {}),
              StatusIs(absl::StatusCode::kUnimplemented, _));
}

TEST_F(OneShotTest, ResidualAddRoundsOnce) {
  const std::vector<uint16_t> add = RandomBf16(1, 1, 1001), before = RandomBf16(1, 2, 1001);
  DeviceVector<uint16_t> a(add), r(before);
  ASSERT_OK(ResidualAddCuda(
      {.add = a.data, .residual = r.data, .count = 1001, .dtype = DType::kBf16}, {}));
  ASSERT_CUDA(cudaDeviceSynchronize());
  const std::vector<uint16_t> got = r.Get();
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_EQ(got[i], FloatToBf16(Bf16ToFloat(add[i]) + Bf16ToFloat(before[i])));
}

}  // namespace
}  // namespace tessera
