// Run under mpirun by all ranks at once. Ranks share GPUs where there are fewer: then the driver
// takes turns between them, which is slow but shows that the mappings are right.
#include <cuda_runtime_api.h>

#include "kernels/comm/one_shot_all_reduce.h"
#include "parallel/peer_regions.h"
#include "tests/kernels/comm/comm_reference.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using testing::RandomBf16;

constexpr int64_t kOffset = 4096 + 256;  // of the region in its allocation
constexpr int64_t kD = 2048;

class PeerRegionsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks_);
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) GTEST_SKIP() << "no GPU";
    ASSERT_EQ(cudaSetDevice(rank_ % gpus), cudaSuccess);
    bytes_ = PeerRegionBytes(ranks_, 2, kD, DType::kBf16);
    ASSERT_EQ(cudaMalloc(&arena_, static_cast<size_t>(bytes_ + kOffset)), cudaSuccess);
  }
  void TearDown() override {
    MPI_Barrier(MPI_COMM_WORLD);  // all mappings are closed
    cudaFree(arena_);
  }
  void* region() const { return static_cast<char*>(arena_) + kOffset; }
  absl::StatusOr<std::unique_ptr<PeerRegions>> Map(void* region, int64_t bytes) {
    return PeerRegions::Map(MPI_COMM_WORLD, region, bytes, absl::Seconds(10));
  }

  int rank_ = 0, ranks_ = 0;
  int64_t bytes_ = 0;
  void* arena_ = nullptr;
};

TEST_F(PeerRegionsTest, RanksSumThroughEachOthersMemory) {
  auto peers = Map(region(), bytes_);
  ASSERT_OK(peers);
  ASSERT_NE(*peers, nullptr);
  void* data = nullptr;
  ASSERT_EQ(cudaMalloc(&data, 2 * kD), cudaSuccess);
  for (int call = 0; call < 5; ++call) {
    const std::vector<uint16_t> mine = RandomBf16(call, rank_, kD);
    ASSERT_EQ(cudaMemcpy(data, mine.data(), 2 * kD, cudaMemcpyHostToDevice), cudaSuccess);
    ASSERT_OK(LaunchOneShotAllReduceSum(
        {.peers = (*peers)->group(), .data = data, .count = kD, .dtype = DType::kBf16}, nullptr));
    std::vector<uint16_t> sum(mine.size());
    ASSERT_EQ(cudaMemcpy(sum.data(), data, 2 * kD, cudaMemcpyDeviceToHost), cudaSuccess);
    std::vector<float> want(sum.size());
    for (int r = 0; r < ranks_; ++r) {
      const std::vector<uint16_t> part = RandomBf16(call, r, kD);
      for (size_t i = 0; i < want.size(); ++i)
        want[i] = r == 0 ? Bf16ToFloat(part[i]) : want[i] + Bf16ToFloat(part[i]);
    }
    for (size_t i = 0; i < want.size(); ++i) ASSERT_EQ(sum[i], FloatToBf16(want[i])) << i;
  }
  EXPECT_OK((*peers)->Health());
  cudaFree(data);
}

TEST_F(PeerRegionsTest, NoRegionAnywhereIsNoPeers) {
  auto peers = Map(nullptr, 0);
  ASSERT_OK(peers);
  EXPECT_EQ(*peers, nullptr);
}

TEST_F(PeerRegionsTest, OneRankWithoutARegionIsNoPeersForAll) {
  auto peers = rank_ == 0 ? Map(nullptr, 0) : Map(region(), bytes_);
  ASSERT_OK(peers);
  EXPECT_EQ(*peers, nullptr);
}

TEST_F(PeerRegionsTest, TheSmallestRegionSetsTheCells) {
  const int64_t less = PeerRegionBytes(ranks_, 1, kD, DType::kBf16);
  auto peers = Map(region(), rank_ == 0 ? less : bytes_);
  ASSERT_OK(peers);
  ASSERT_NE(*peers, nullptr);
  EXPECT_EQ((*peers)->group().cells, PeerRegionCells(ranks_, less));
}

TEST_F(PeerRegionsTest, MemoryThatCannotBeSharedIsNoPeersForAll) {
  std::vector<char> host(static_cast<size_t>(bytes_));
  auto peers = Map(rank_ == 0 ? host.data() : region(), bytes_);
  ASSERT_OK(peers);
  EXPECT_EQ(*peers, nullptr);
}

}  // namespace
}  // namespace tessera
