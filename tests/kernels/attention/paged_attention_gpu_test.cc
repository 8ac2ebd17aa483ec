#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/attention/paged_attention.h"
#include "kernels/attention/paged_attention_config.h"
#include "tests/kernels/attention/attention_case.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

// p is rounded to the dtype before it meets v, and so is the result: half a unit in the last place
// each, 2^-9 for bf16 and 2^-12 for f16, relative to the sum of |p v|. Twice that for the sums' own
// roundings and exp2's.
double ToleranceOf(DType dtype) { return dtype == DType::kBf16 ? 0x1p-7 : 0x1p-10; }

// More sequences than are few (paged_attention_config.h), whatever the heads.
constexpr int64_t kMany = 60;

// `sequences`, and others behind them to make `count`.
std::vector<AttentionSequence> Among(int64_t count, std::vector<AttentionSequence> sequences) {
  while (static_cast<int64_t>(sequences.size()) < count)
    sequences.push_back({1, 1 + static_cast<int64_t>(sequences.size()) * 7});
  return sequences;
}

class PagedAttentionCudaTest : public GpuOpTest {
 protected:
  static void ExpectAgrees(const AttentionCase& c) {
    ExpectNear(RunAttention(gpu(), c), ReferenceAttention(c), ToleranceOf(c.shape.dtype));
  }
};

TEST_F(PagedAttentionCudaTest, DecodeAgreesForEveryGroupAndHeadSize) {
  for (DType dtype : {DType::kBf16, DType::kF16})
    for (int64_t group : {1, 2, 4, 5, 7, 8, 16, 20})
      for (int64_t e : {32, 64, 128}) {
        SCOPED_TRACE(absl::StrCat(Name(dtype), " group ", group, " e ", e));
        const AttentionShape shape{.h = 2 * group, .g = 2, .e = e, .dtype = dtype};
        std::vector<AttentionSequence> sequences = {{1, 37}, {1, 700}, {1, 1}, {1, 130}};
        ExpectAgrees(MakeAttentionCase(shape, sequences));
        ExpectAgrees(MakeAttentionCase(shape, Among(kMany, sequences)));
      }
}

TEST_F(PagedAttentionCudaTest, DecodeAgreesAroundEveryTileEdge) {
  std::vector<AttentionSequence> sequences;
  for (int64_t edge : {1, 16, 32, 64, 128, 192, 256, 512, 1024})
    for (int64_t context : {edge - 1, edge, edge + 1})
      if (context > 0) sequences.push_back({1, context});
  for (int64_t e : {32, 64, 128}) {
    SCOPED_TRACE(e);
    const AttentionShape shape{.h = 14, .g = 2, .e = e, .block_size = 48, .dtype = DType::kBf16};
    ExpectAgrees(MakeAttentionCase(shape, sequences));
    for (const AttentionSequence& alone : sequences) {
      SCOPED_TRACE(alone.context);
      ExpectAgrees(MakeAttentionCase(shape, {alone}));
    }
  }
}

TEST_F(PagedAttentionCudaTest, DecodeNormalisesAndScalesHeads) {
  for (int64_t e : {32, 64, 128})
    for (int64_t group : {7, 12, 20}) {
      SCOPED_TRACE(absl::StrCat("e ", e, " group ", group));
      const AttentionShape shape{
          .h = 2 * group, .g = 2, .e = e, .dtype = DType::kBf16, .norm = true, .rope_scale = 1.25f};
      ExpectAgrees(MakeAttentionCase(shape, {{1, 300}}));
      ExpectAgrees(MakeAttentionCase(shape, {{1, 37}, {1, 1, true}, {1, 300}}));
      ExpectAgrees(MakeAttentionCase(shape, Among(kMany, {{1, 37}, {1, 1, true}, {1, 300}})));
    }
}

TEST_F(PagedAttentionCudaTest, EarlyReadsGiveTheSameBits) {
  const AttentionShape shape{.h = 28, .g = 4, .e = 128, .dtype = DType::kBf16};
  for (const std::vector<AttentionSequence>& sequences :
       {std::vector<AttentionSequence>{{1, 3000}},
        {{1, 40}, {1, 2500}, {1, 9, true}, {20, 70}},
        Among(kMany, {{1, 2500}, {1, 9, true}})}) {
    AttentionCase c = MakeAttentionCase(shape, sequences);
    const std::vector<float> in_order = RunAttention(gpu(), c);
    c.reads = CacheReads::kEarly;
    EXPECT_EQ(RunAttention(gpu(), c), in_order);
  }
}

// Decode of few and of many sequences, split contexts, prefill, rows of no sequence.
TEST_F(PagedAttentionCudaTest, AnOrderOfTheOutputNeverChangesABit) {
  for (const DType dtype : {DType::kBf16, DType::kF16})
    for (const int64_t e : {32, 64, 128})
      for (const std::vector<AttentionSequence>& sequences :
           {std::vector<AttentionSequence>{{1, 3000}},
            {{1, 40}, {1, 2500}, {1, 9, true}, {70, 200}, {3, 3, true}},
            {{300, 301}, {7, 60}},
            Among(kMany, {{1, 5000}, {1, 9, true}})}) {
        SCOPED_TRACE(absl::StrCat(Name(dtype), " e ", e, " sequences ", sequences.size()));
        AttentionCase c = MakeAttentionCase({.h = 28, .g = 4, .e = e, .dtype = dtype}, sequences);
        c.extra_rows = 3;
        const std::vector<float> plain = RunAttention(gpu(), c);
        c.ordered = true;
        EXPECT_EQ(RunAttention(gpu(), c), plain);
      }
}

TEST_F(PagedAttentionCudaTest, DecodeAgreesOnLongContexts) {
  const AttentionShape shape{.h = 28, .g = 4, .e = 128, .block_size = 64, .dtype = DType::kBf16};
  ExpectAgrees(MakeAttentionCase(shape, {{1, 9001}}));
  ExpectAgrees(MakeAttentionCase(shape, {{1, 5000}, {1, 3}, {1, 2311}, {1, 64}}));
  ExpectAgrees(MakeAttentionCase(shape, Among(20, {{1, 5000}, {1, 3}, {1, 2311}, {1, 64}})));
}

TEST_F(PagedAttentionCudaTest, DecodeAgreesWithMoreChunksThanABatchOfLoads) {
  for (int64_t group : {8, 16}) {
    const AttentionShape shape{.h = group, .g = 1, .e = 128, .dtype = DType::kBf16};
    ExpectAgrees(MakeAttentionCase(shape, {{1, 30001}}));
    ExpectAgrees(MakeAttentionCase(shape, {{1, 30001}, {1, 20}}));
  }
}

TEST_F(PagedAttentionCudaTest, DecodeAgreesWithMoreHeadsThanBlocksOfOneSequence) {
  ExpectAgrees(MakeAttentionCase({.h = 450, .g = 450, .e = 32, .dtype = DType::kBf16}, {{1, 90}}));
}

TEST_F(PagedAttentionCudaTest, DecodeAgreesWithMoreHeadsThanBlocks) {
  std::vector<AttentionSequence> sequences;
  for (int64_t i = 0; i < 40; ++i) sequences.push_back({1, 1 + i * 613 % 1900, i % 9 == 4});
  ExpectAgrees(MakeAttentionCase({.h = 8, .g = 4, .e = 64, .dtype = DType::kBf16}, sequences));
}

TEST_F(PagedAttentionCudaTest, DecodeAgreesOnMoreSequencesThanThreads) {
  std::vector<AttentionSequence> sequences;
  for (int64_t i = 0; i < 600; ++i) sequences.push_back({1, 1 + i * 37 % 90, i % 50 == 7});
  ExpectAgrees(MakeAttentionCase({.h = 4, .g = 2, .e = 64, .dtype = DType::kBf16}, sequences));
}

TEST_F(PagedAttentionCudaTest, PrefillAgreesForEveryGroupAndHeadSize) {
  for (DType dtype : {DType::kBf16, DType::kF16})
    for (int64_t group : {1, 2, 5, 7, 8, 16})
      for (int64_t e : {32, 64, 128}) {
        SCOPED_TRACE(absl::StrCat(Name(dtype), " group ", group, " e ", e));
        ExpectAgrees(MakeAttentionCase({.h = 2 * group, .g = 2, .e = e, .dtype = dtype},
                                       {{150, 150}, {33, 200}, {2, 2}}));
      }
}

TEST_F(PagedAttentionCudaTest, PrefillAgreesAroundEveryTileEdge) {
  for (int64_t e : {64, 128}) {
    const AttentionShape shape{.h = 4, .g = 2, .e = e, .block_size = 32, .dtype = DType::kBf16};
    for (int64_t rows : {2, 15, 16, 17, 63, 64, 65, 127, 128, 129})
      for (int64_t before : {0, 1, 62, 63, 64, 65, 500}) {
        SCOPED_TRACE(absl::StrCat("e ", e, " rows ", rows, " before ", before));
        ExpectAgrees(MakeAttentionCase(shape, {{rows, rows + before}}));
      }
  }
}

TEST_F(PagedAttentionCudaTest, PrefillAgreesOnALongPrompt) {
  ExpectAgrees(MakeAttentionCase({.h = 14, .g = 2, .e = 128, .dtype = DType::kBf16},
                                 {{900, 1100}, {300, 300}}));
}

TEST_F(PagedAttentionCudaTest, DecodeAndPrefillMixInOneCall) {
  const AttentionShape shape{.h = 28, .g = 4, .e = 128, .dtype = DType::kBf16};
  ExpectAgrees(MakeAttentionCase(
      shape, {{1, 600}, {1, 9, true}, {1, 33}, {70, 200}, {4, 4, true}, {1, 50}, {129, 129}}));
}

TEST_F(PagedAttentionCudaTest, PeakedSoftmaxAgrees) {
  ExpectAgrees(MakeAttentionCase({.h = 8, .g = 2, .dtype = DType::kBf16, .q_stddev = 8.f},
                                 {{1, 3000}, {200, 300}}));
}

TEST_F(PagedAttentionCudaTest, PaddingSequencesAndRowsOfNoSequenceGiveZeros) {
  const AttentionShape shape{.dtype = DType::kBf16};
  for (const std::vector<AttentionSequence>& sequences :
       {std::vector<AttentionSequence>{{1, 20}, {1, 1, true}},
        {{1, 1, true}, {1, 1, true}},
        {{9, 20}, {7, 7, true}}}) {
    AttentionCase c = MakeAttentionCase(shape, sequences);
    c.extra_rows = 5;
    ExpectAgrees(c);
  }
}

TEST_F(PagedAttentionCudaTest, TableEntriesOutsideTheCacheAreClamped) {
  for (int64_t rows : {1, 20}) {
    AttentionCase c = MakeAttentionCase({.dtype = DType::kBf16}, {{rows, 300}});
    MakeUniform(c);
    for (int32_t& entry : c.block_table) entry = entry % 2 == 0 ? -1000000 : 1000000;
    ExpectAgrees(c);
  }
}

TEST_F(PagedAttentionCudaTest, ContextBeyondTheTableIsCutToIt) {
  AttentionCase c = MakeAttentionCase({.dtype = DType::kBf16}, {{1, 300}});
  MakeUniform(c);
  for (int32_t& entry : c.block_table) entry = 1;
  c.context[0] = 1000000;
  EXPECT_THAT(RunAttention(gpu(), c), ::testing::Each(::testing::FloatNear(0.5f, 1e-2f)));
}

TEST_F(PagedAttentionCudaTest, AContextAboveTheHostBoundIsStillRight) {
  AttentionCase c = MakeAttentionCase({.dtype = DType::kBf16}, {{1, 300}});
  c.max_context = 128;
  ExpectAgrees(c);
}

TEST_F(PagedAttentionCudaTest, RepeatsBitForBit) {
  const AttentionCase c = MakeAttentionCase({.h = 28, .g = 4, .e = 128, .dtype = DType::kBf16},
                                            {{1, 4000}, {1, 77}, {1, 1999}, {1, 640}, {200, 500}});
  const std::vector<float> first = RunAttention(gpu(), c);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(RunAttention(gpu(), c), first);
  const AttentionCase many = MakeAttentionCase(c.shape, Among(kMany, {{1, 4000}, {1, 1999}}));
  const std::vector<float> first_many = RunAttention(gpu(), many);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(RunAttention(gpu(), many), first_many);
}

TEST_F(PagedAttentionCudaTest, NeighboursAndBlockPlacesNeverChangeABit) {
  const AttentionShape shape{.h = 28, .g = 4, .e = 128, .dtype = DType::kBf16};
  const auto row = static_cast<size_t>(shape.h * shape.e);
  for (int64_t context : {40, 333, 5000}) {
    SCOPED_TRACE(context);
    std::vector<float> quiet =
        RunAttention(gpu(), MakeAttentionCase(shape, {{1, context}, {1, 5}, {1, 1, true}, {1, 9}}));
    std::vector<float> busy = RunAttention(
        gpu(), MakeAttentionCase(shape, {{1, context}, {1, 1200}, {1, 7000}, {1, 2500}, {30, 64}},
                                 1, /*shuffle_seed=*/99));
    quiet.resize(row);
    busy.resize(row);
    EXPECT_EQ(busy, quiet);
    std::vector<AttentionSequence> short_ones = Among(kMany, {{1, context}}),
                                   long_ones = short_ones;
    for (size_t i = 1; i < long_ones.size(); ++i)
      long_ones[i].context = 40 + static_cast<int64_t>(i) * 331 % 2000;
    quiet = RunAttention(gpu(), MakeAttentionCase(shape, short_ones));
    busy = RunAttention(gpu(), MakeAttentionCase(shape, long_ones, 1, /*shuffle_seed=*/99));
    quiet.resize(row);
    busy.resize(row);
    EXPECT_EQ(busy, quiet);
  }
}

void ExpectRefused(const Stream& stream, absl::StatusCode code, const std::string& message,
                   const std::function<void(PagedAttentionArgs&)>& change) {
  PagedAttentionArgs a;
  a.h = 4;
  a.g = 2;
  a.e = 64;
  a.block_size = 16;
  a.dtype = DType::kBf16;
  EXPECT_OK(PagedAttentionCuda(a, stream));
  change(a);
  EXPECT_THAT(PagedAttentionCuda(a, stream), StatusIs(code, HasSubstr(message)));
}

TEST_F(PagedAttentionCudaTest, WorkspaceTooSmallIsInvalid) {
  ExpectRefused(gpu().stream(), absl::StatusCode::kInvalidArgument, "workspace of 100 bytes",
                [](auto& a) {
                  a.t = a.s = a.decode_sequences = 2;
                  a.workspace_bytes = 100;
                });
}

TEST_F(PagedAttentionCudaTest, MoreWorkThanThirtyTwoBitsCountIsInvalid) {
  ExpectRefused(gpu().stream(), absl::StatusCode::kInvalidArgument, "2^32 is too many",
                [](auto& a) {
                  a.t = a.s = a.decode_sequences = 100000;
                  a.max_blocks = 1 << 20;
                  a.workspace_bytes = int64_t{1} << 40;
                });
}

TEST_F(PagedAttentionCudaTest, Fp32IsUnimplemented) {
  ExpectRefused(gpu().stream(), absl::StatusCode::kUnimplemented, "f32 on CUDA",
                [](auto& a) { a.dtype = DType::kF32; });
}

}  // namespace
}  // namespace tessera::testing
