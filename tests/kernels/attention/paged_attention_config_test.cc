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
  EXPECT_EQ(bytes(4096), bytes(64));
  EXPECT_LT(bytes(4096), int64_t{40} << 20);
}

TEST(DecodeLayout, GroupsAboveSixteenAreSplitEvenly) {
  const DecodeLayout layout = ChooseDecodeLayout(kSms, 1, 40, 2, 64);
  EXPECT_EQ(layout.parts, 2);
  EXPECT_EQ(layout.rows, 10);
  EXPECT_EQ(layout.heads, 4);
}

TEST(DecodeLayout, OneSequenceGivesEveryBlockAtMostOneChunk) {
  for (int64_t g : {1, 2, 4, 8, 64}) {
    const DecodeLayout layout = ChooseDecodeLayout(kSms, 1, 64, g, 128);
    for (int32_t context : {4000, 32768, 131072})
      EXPECT_LE(CutContext(context, layout.cut).chunks * layout.heads, kSms) << g;
  }
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
