#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/attention/paged_attention.h"
#include "kernels/attention/prefill_attention_sm90.h"
#include "tests/kernels/attention/attention_case.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

// As in paged_attention_gpu_test.cc.
double ToleranceOf(DType dtype) { return dtype == DType::kBf16 ? 0x1p-7 : 0x1p-10; }

class PrefillAttentionCudaTest : public GpuOpTest {
 protected:
  static void ExpectAgrees(const AttentionCase& c) {
    ExpectNear(RunAttention(gpu(), c), ReferenceAttention(c), ToleranceOf(c.shape.dtype));
  }
};

TEST_F(PrefillAttentionCudaTest, AgreesAroundEveryTokenTileEdge) {
  for (DType dtype : {DType::kBf16, DType::kF16})
    for (int64_t e : {64, 128})
      for (int64_t tokens : {2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257}) {
        SCOPED_TRACE(absl::StrCat(Name(dtype), " e ", e, " tokens ", tokens));
        ExpectAgrees(MakeAttentionCase({.h = 4, .g = 2, .e = e, .block_size = 64, .dtype = dtype},
                                       {{tokens, tokens}}));
      }
}

TEST_F(PrefillAttentionCudaTest, AgreesForEveryBlockSizeAndGroup) {
  for (int64_t e : {64, 128})
    for (int64_t block_size : {16, 32, 48, 64, 128, 256})
      for (int64_t group : {1, 4, 7, 8}) {
        SCOPED_TRACE(absl::StrCat("e ", e, " block size ", block_size, " group ", group));
        ExpectAgrees(MakeAttentionCase(
            {.h = 2 * group, .g = 2, .e = e, .block_size = block_size, .dtype = DType::kBf16},
            {{140, 140}, {30, 333}, {3, 130}}));
      }
}

TEST_F(PrefillAttentionCudaTest, AgreesWhenATokensHeadsSpanTiles) {
  for (int64_t e : {64, 128})
    for (int64_t group : {48, 150, 200}) {
      SCOPED_TRACE(absl::StrCat("e ", e, " group ", group));
      ExpectAgrees(MakeAttentionCase({.h = group, .g = 1, .e = e, .dtype = DType::kBf16},
                                     {{5, 140}, {20, 20}}));
    }
}

TEST_F(PrefillAttentionCudaTest, LastRowsOfALongContextAgree) {
  for (int64_t e : {64, 128}) {
    SCOPED_TRACE(e);
    ExpectAgrees(
        MakeAttentionCase({.h = 7, .g = 1, .e = e, .block_size = 64, .dtype = DType::kBf16},
                          {{90, 5000}, {2, 4097}}));
  }
}

TEST_F(PrefillAttentionCudaTest, ManyShortSequencesAgree) {
  std::vector<AttentionSequence> sequences;
  for (int64_t i = 0; i < 300; ++i) {
    const int64_t rows = 2 + i * 37 % 40;
    sequences.push_back({rows, rows + i * 13 % 150, i % 50 == 7});
  }
  for (int64_t e : {64, 128}) {
    SCOPED_TRACE(e);
    AttentionCase c = MakeAttentionCase({.h = 7, .g = 1, .e = e, .dtype = DType::kF16}, sequences);
    c.extra_rows = 9;
    ExpectAgrees(c);
  }
}

// Blocks take turns at tiles; with more tiles than blocks, rings go round and buffers are reused.
TEST_F(PrefillAttentionCudaTest, MoreTilesThanBlocksAgree) {
  ExpectAgrees(
      MakeAttentionCase({.h = 64, .g = 16, .e = 64, .block_size = 32, .dtype = DType::kBf16},
                        {{300, 300}, {200, 350}, {100, 100}}));
}

TEST_F(PrefillAttentionCudaTest, TableEntriesOutsideTheCacheAreClamped) {
  for (int64_t e : {64, 128}) {
    AttentionCase c = MakeAttentionCase({.e = e, .dtype = DType::kBf16}, {{200, 300}});
    std::fill(c.k_cache.begin(), c.k_cache.end(), 0.25f);
    std::fill(c.v_cache.begin(), c.v_cache.end(), 0.5f);
    for (int32_t& entry : c.block_table) entry = entry % 2 == 0 ? -1000000 : 1000000;
    ExpectAgrees(c);
  }
}

TEST_F(PrefillAttentionCudaTest, ContextBeyondTheTableIsCutToIt) {
  AttentionCase c = MakeAttentionCase({.e = 128, .dtype = DType::kBf16}, {{20, 300}});
  std::fill(c.k_cache.begin(), c.k_cache.end(), 0.25f);
  std::fill(c.v_cache.begin(), c.v_cache.end(), 0.5f);
  for (int32_t& entry : c.block_table) entry = 1;
  c.context[0] = 1000000;
  EXPECT_THAT(RunAttention(gpu(), c), ::testing::Each(::testing::FloatNear(0.5f, 1e-2f)));
}

TEST_F(PrefillAttentionCudaTest, RowsBeforeTheContextsStartGiveZeros) {
  AttentionCase c =
      MakeAttentionCase({.h = 2, .g = 1, .e = 128, .dtype = DType::kBf16}, {{150, 150}});
  c.context[0] = 20;  // the first 130 rows see nothing
  std::vector<float> out = RunAttention(gpu(), c);
  out.resize(130 * 2 * 128);
  EXPECT_THAT(out, ::testing::Each(0.f));
}

TEST_F(PrefillAttentionCudaTest, RepeatsBitForBit) {
  for (int64_t e : {64, 128}) {
    const AttentionCase c = MakeAttentionCase({.h = 28, .g = 4, .e = e, .dtype = DType::kBf16},
                                              {{200, 500}, {64, 1200}, {333, 333}});
    const std::vector<float> first = RunAttention(gpu(), c);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(RunAttention(gpu(), c), first);
  }
}

TEST_F(PrefillAttentionCudaTest, NeighboursAndBlockPlacesNeverChangeABit) {
  for (int64_t e : {64, 128}) {
    const AttentionShape shape{.h = 28, .g = 4, .e = e, .dtype = DType::kBf16};
    const auto rows = static_cast<size_t>(150 * shape.h * shape.e);
    std::vector<float> alone = RunAttention(gpu(), MakeAttentionCase(shape, {{150, 700}}));
    std::vector<float> among = RunAttention(
        gpu(), MakeAttentionCase(shape, {{150, 700}, {260, 260}, {5, 5, true}, {70, 900}}, 1,
                                 /*shuffle_seed=*/99));
    alone.resize(rows);
    among.resize(rows);
    EXPECT_EQ(among, alone);
  }
}

// A large bound on contexts makes blocks go through the kv heads one after the other.
TEST_F(PrefillAttentionCudaTest, TheHostsBoundOnContextsNeverChangesABit) {
  AttentionCase c = MakeAttentionCase({.h = 20, .g = 5, .e = 128, .dtype = DType::kBf16},
                                      {{300, 300}, {40, 500}, {6, 6, true}});
  c.extra_rows = 3;
  const std::vector<float> exact = RunAttention(gpu(), c);
  for (int64_t bound : {int64_t{1}, int64_t{100'000}, int64_t{1} << 40}) {
    SCOPED_TRACE(bound);
    c.max_context = bound;
    EXPECT_EQ(RunAttention(gpu(), c), exact);
  }
}

TEST_F(PrefillAttentionCudaTest, ACacheThatTmaCannotAddressIsInternal) {
  PagedAttentionArgs a;
  a.t = 2;
  a.s = 1;
  a.h = a.g = 1;
  a.e = 64;
  a.block_size = 16;
  a.max_blocks = a.blocks = 1;
  a.scale = 1.f;
  a.dtype = DType::kBf16;
  if (!ServesPrefillSm90(a)) GTEST_SKIP() << "no sm_90 device";
  a.k_cache = a.v_cache = reinterpret_cast<void*>(0x1002);  // not a multiple of 16
  EXPECT_THAT(PagedAttentionCuda(a, gpu().stream()),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("no tensor map of 16 rows")));
}

}  // namespace
}  // namespace tessera::testing
