#include "kernels/attention/paged_attention_config.h"

#include <cstdint>

#include <gtest/gtest.h>

namespace tessera {
namespace {

constexpr int kSms = 132;

TEST(PagedAttentionWorkspace, IsNothingOnTheCpu) {
  EXPECT_EQ(PagedAttentionWorkspaceBytes(Device::kCpu, 16, 100, 100, 28, 4, 128), 0);
}

TEST(PagedAttentionWorkspace, CoversEverySmallerStep) {
  for (int64_t g : {1, 2, 4, 8})
    for (int64_t max : {1, 2, 3, 64, 4096}) {
      const int64_t bytes = PagedAttentionWorkspaceBytes(Device::kCuda, kSms, max, max, 28, g, 128);
      for (int64_t s = 1; s <= max; s += 1 + s / 8)
        EXPECT_LE(PagedAttentionWorkspaceBytes(Device::kCuda, kSms, s, s, 28, g, 128), bytes)
            << "g " << g << " s " << s << " of " << max;
    }
}

TEST(PagedAttentionWorkspace, StopsGrowingWithManySequences) {
  const auto bytes = [](int64_t s) {
    return PagedAttentionWorkspaceBytes(Device::kCuda, kSms, s, s, 28, 4, 128);
  };
  EXPECT_EQ(bytes(4096), bytes(128));
  EXPECT_LT(bytes(4096), int64_t{40} << 20);
}

TEST(DecodeLayout, GroupsAboveSixteenAreSplitEvenly) {
  const DecodeLayout layout = ChooseDecodeLayout(kSms, 1, 40, 2, 64);
  EXPECT_EQ(layout.parts, 2);
  EXPECT_EQ(layout.rows, 10);
  EXPECT_EQ(layout.heads, 4);
}

TEST(DecodeLayout, WorkspaceCoversTheLayout) {
  for (int64_t sequences : {1, 2, 5, 33, 98, 99, 100, 1000})
    for (int64_t h : {1, 28, 64, 80}) {
      const DecodeLayout layout = ChooseDecodeLayout(kSms, sequences, h, 1, 128);
      EXPECT_LE(layout.partial_bytes + layout.state_bytes + layout.folded_bytes,
                PagedAttentionWorkspaceBytes(Device::kCuda, kSms, sequences, sequences, h, 1, 128))
          << sequences << " sequences, h " << h;
    }
}

TEST(FewLayout, GivesEveryChunkABlockThatCanBeResident) {
  for (int64_t sequences : {1, 2, 3, 6})
    for (int64_t g : {1, 2, 4, 8, 64}) {
      const DecodeLayout layout = ChooseFewLayout(kSms, sequences, 64, g);
      EXPECT_LE(layout.blocks, kSms * DecodeLayout::kFewBlocksPerSm) << g;
      for (int32_t context : {1, 4000, 32768, 131072})
        EXPECT_LE(CutContext(context, layout.cut).chunks * layout.heads * sequences, layout.blocks)
            << g;
    }
}

TEST(FewLayout, MoreHeadsThanBlocksAreNotSplit) {
  const DecodeLayout layout = ChooseFewLayout(kSms, 1, 600, 600);
  EXPECT_EQ(layout.blocks, 600);
  EXPECT_EQ(CutContext(100000, layout.cut).chunks, 1);
}

TEST(FewLayout, ServesOneSequenceAndAFewOfFewHeads) {
  const auto few = [](int64_t sequences, int64_t g) {
    return IsFewSequences(ChooseFewLayout(kSms, sequences, 64, g), sequences);
  };
  EXPECT_TRUE(few(1, 64));
  EXPECT_TRUE(few(12, 4));  // 396 blocks over 48 pairs: 8 chunks
  EXPECT_FALSE(few(13, 4));
}

TEST(CutContext, ChunksCoverTheContextOnceAndNeverExceedTheirCount) {
  for (int64_t sequences : {1, 2, 64, 1000}) {
    const CutRule rule = ChooseDecodeLayout(kSms, sequences, 28, 4, 128).cut;
    for (int32_t context = 1; context < 140000; context += context < 300 ? 1 : 97) {
      const ContextCut cut = CutContext(context, rule);
      ASSERT_LE(cut.chunks, rule.max_chunks) << context;
      ASSERT_GE(cut.chunks * cut.chunk_units, cut.units) << context;
      ASSERT_LT((cut.chunks - 1) * cut.chunk_units, cut.units) << context;
      ASSERT_GE(cut.units * ContextCut::kUnitTokens, context);
      ASSERT_LT(cut.Offset(cut.chunks - 1), cut.Cost());
    }
  }
}

TEST(CutContext, NoContextHasNoChunks) { EXPECT_EQ(CutContext(0, CutRule()).chunks, 0); }

}  // namespace
}  // namespace tessera
