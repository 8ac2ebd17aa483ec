#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "common/status_macros.h"
#include "kernels/gemm/linear.h"
#include "kernels/gemm/packed_chain.h"
#include "kernels/runtime/current_gpu.h"
#include "tests/kernels/gemm/linear_on_device.h"
#include "tests/kernels/gemm/packed_case.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

struct ChainFormat {
  DType dtype = DType::kBf16;
  int bits = 4;
  bool zeros = false;
  int64_t group = 128;
};

// The products of a layer from the attention's output on, fed by each other: o, gate and up, down,
// and the next layer's q, k and v.
class Chain {
 public:
  Chain(testing::OpDevice& gpu, const ChainFormat& f, int64_t hidden, int64_t inner, uint32_t seed)
      : gpu_(gpu), f_(f) {
    Add({.n = hidden, .k = 1536, .residual = true}, seed);
    Add({.n = inner, .k = hidden, .normed = true, .gated = true}, seed + 1);
    Add({.n = hidden, .k = inner, .residual = true}, seed + 2);
    Add({.n = hidden + 1024, .k = hidden, .normed = true, .bias = true}, seed + 3);
    for (size_t i = 1; i < products_.size(); ++i)
      products_[i]->args().x = products_[i - 1]->args().y;
    products_[2]->args().residual = products_[0]->args().y;
  }

  LinearArgs& args(size_t i) { return products_[i]->args(); }
  size_t count() const { return products_.size(); }
  std::vector<LinearArgs> All() {
    std::vector<LinearArgs> all;
    for (auto& each : products_) all.push_back(each->args());
    return all;
  }

  absl::Status EnqueueApart() {
    for (auto& each : products_) RETURN_IF_ERROR(each->Enqueue());
    return absl::OkStatus();
  }
  absl::Status EnqueueJoined() {
    const std::vector<LinearArgs> all = All();
    return LinearSequenceCuda({.products = all.data(), .count = static_cast<int>(all.size())},
                              gpu_.stream());
  }
  // How many products of the sequence go in the first launch.
  int Joined() {
    return PlanPackedChain(
               {.sm_count = CurrentGpu().sm_count, .shared_bytes = CurrentGpu().shared_bytes},
               All())
        .count;
  }

  // All outputs, bit for bit.
  std::vector<std::vector<float>> Read() {
    std::vector<std::vector<float>> all;
    for (auto& each : products_) all.push_back(each->Read());
    return all;
  }
  void ClearOutputs() {
    for (auto& each : products_)
      EXPECT_OK(
          gpu_.runtime().Zero(each->args().y, each->args().n * SizeOf(f_.dtype), gpu_.stream()));
  }

 private:
  void Add(LinearCase c, uint32_t seed) {
    c.t = 1;
    c.dtype = c.y_dtype = f_.dtype;
    products_.push_back(std::make_unique<PackedOnDevice>(
        gpu_,
        RandomPacked({.linear = c, .bits = f_.bits, .group = f_.group, .zeros = f_.zeros}, seed)));
  }

  testing::OpDevice& gpu_;
  const ChainFormat f_;
  std::vector<std::unique_ptr<PackedOnDevice>> products_;
};

class PackedChainGpu : public testing::GpuOpTest {
 protected:
  void SetUp() override {
    testing::GpuOpTest::SetUp();
    if (IsSkipped()) return;
    if (!CurrentGpu().is_sm90()) GTEST_SKIP() << "products are joined on sm_90 only";
  }

  // Bits, but for those of a NaN: two conversions to float may differ there.
  static void ExpectSame(const std::vector<std::vector<float>>& expected,
                         const std::vector<std::vector<float>>& got) {
    ASSERT_EQ(expected.size(), got.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(expected[i].size(), got[i].size());
      for (size_t j = 0; j < expected[i].size(); ++j)
        ASSERT_TRUE(std::bit_cast<uint32_t>(expected[i][j]) == std::bit_cast<uint32_t>(got[i][j]) ||
                    (std::isnan(expected[i][j]) && std::isnan(got[i][j])))
            << "product " << i << ", output " << j << ": " << got[i][j] << ", apart "
            << expected[i][j];
    }
  }
  static void ExpectJoinedLikeApart(Chain& chain, int runs) {
    ASSERT_EQ(chain.Joined(), 4);
    ASSERT_OK(chain.EnqueueApart());
    const std::vector<std::vector<float>> expected = chain.Read();
    for (int run = 0; run < runs; ++run) {
      SCOPED_TRACE(::testing::Message() << "run " << run);
      chain.ClearOutputs();
      ASSERT_OK(chain.EnqueueJoined());
      ExpectSame(expected, chain.Read());
    }
  }
};

// That launches apart are right is what the tests of the few-row kernel prove.
TEST_F(PackedChainGpu, GivesTheBitsOfSeparateLaunches) {
  for (const DType dtype : {DType::kBf16, DType::kF16})
    for (const int bits : {4, 8})
      for (const bool zeros : {false, true}) {
        Chain chain(gpu(), {.dtype = dtype, .bits = bits, .zeros = zeros}, 2048, 4096, 1);
        ExpectJoinedLikeApart(chain, 10);
      }
}

TEST_F(PackedChainGpu, TakesSizesWithSeveralStripsAndUnevenTiles) {
  for (const int bits : {4, 8}) {
    Chain chain(gpu(), {.bits = bits}, 3584, 5008, 5);
    ExpectJoinedLikeApart(chain, 5);
  }
}

TEST_F(PackedChainGpu, TakesOneGroupForAWholeColumn) {
  for (const int bits : {4, 8}) {
    Chain chain(gpu(), {.bits = bits, .zeros = true, .group = 1 << 20}, 2048, 3072, 9);
    ExpectJoinedLikeApart(chain, 5);
  }
}

// As in a model: what o and down add to is what they write.
TEST_F(PackedChainGpu, AddsInPlace) {
  Chain chain(gpu(), {}, 2048, 4096, 13);
  const testing::FloatArray start = gpu().Upload(DType::kBf16, std::vector<float>(2048, 0.25f));
  void* const hidden = chain.args(0).y;
  chain.args(0).residual = chain.args(2).residual = chain.args(2).y = hidden;
  chain.args(3).x = hidden;
  ASSERT_EQ(chain.Joined(), 4);
  std::vector<std::vector<float>> expected;
  for (int run = 0; run < 6; ++run) {
    ASSERT_OK(gpu().runtime().Copy(hidden, start.data(), 2048 * 2, gpu().stream()));
    ASSERT_OK(run == 0 ? chain.EnqueueApart() : chain.EnqueueJoined());
    if (run == 0) {
      expected = chain.Read();
    } else {
      ExpectSame(expected, chain.Read());
    }
  }
}

// What is no number must arrive too: the readers wait for every value.
TEST_F(PackedChainGpu, HandsOnInfinitiesAndWhatIsNoNumber) {
  for (const DType dtype : {DType::kBf16, DType::kF16})
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity(), -0.f}) {
      Chain chain(gpu(), {.dtype = dtype}, 2048, 4096, 17);
      std::vector<float> residual(2048, 0.5f);
      residual[7] = residual[1031] = bad;
      const testing::FloatArray added = gpu().Upload(dtype, residual);
      chain.args(0).residual = added.data();
      ExpectJoinedLikeApart(chain, 3);
    }
}

TEST_F(PackedChainGpu, AddsWhatTheProductBeforeWrote) {
  Chain chain(gpu(), {}, 2048, 4096, 33);
  chain.args(3).n = chain.args(3).packed.n = 2048;
  chain.args(3).residual = chain.args(2).y;
  ExpectJoinedLikeApart(chain, 5);
}

// Each launch finds the exchange as the one before left it.
TEST_F(PackedChainGpu, ChainsOfOtherSizesTakeTurns) {
  Chain small(gpu(), {}, 2048, 4096, 21), large(gpu(), {.bits = 8}, 3584, 8192, 25);
  for (size_t i = 0; i < small.count(); ++i)
    small.args(i).workspace = large.args(i).workspace = large.args(0).workspace;
  ASSERT_OK(small.EnqueueApart());
  ASSERT_OK(large.EnqueueApart());
  const auto of_small = small.Read(), of_large = large.Read();
  small.ClearOutputs();
  large.ClearOutputs();
  for (int run = 0; run < 25; ++run) {
    ASSERT_OK(small.EnqueueJoined());
    if (run % 3 != 0) ASSERT_OK(large.EnqueueJoined());
  }
  ExpectSame(of_small, small.Read());
  ExpectSame(of_large, large.Read());
}

// What does not join runs behind on its own.
TEST_F(PackedChainGpu, RunsWhatDoesNotJoinBehind) {
  Chain chain(gpu(), {}, 2048, 4096, 29);
  const testing::FloatArray other = gpu().Upload(DType::kBf16, std::vector<float>(4096, 1.f));
  chain.args(3).x = other.data();
  ASSERT_EQ(chain.Joined(), 3);
  ASSERT_OK(chain.EnqueueApart());
  const auto expected = chain.Read();
  chain.ClearOutputs();
  ASSERT_OK(chain.EnqueueJoined());
  ExpectSame(expected, chain.Read());
}

}  // namespace
}  // namespace tessera
