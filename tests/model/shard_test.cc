#include "model/shard.h"

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/parameters.h"
#include "tests/support/status_matchers.h"

namespace tessera {

void PrintTo(const Range& range, std::ostream* out) {
  *out << "[" << range.begin << ", " << range.end << ")";
}

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

ModelConfig Config() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.layers = 7;
  config.hidden = 64;
  config.heads = 12;
  config.kv_heads = 2;
  config.head_size = 32;
  config.intermediate = 416;
  config.vocab = 1003;
  return config;
}

// Stage sizes of `layers` equal layers beside an embedding and a head of `vocab` rows.
std::vector<int64_t> StageSizes(int64_t layers, int64_t vocab, int64_t pp) {
  ModelConfig config = Config();
  config.layers = layers;
  config.vocab = vocab;
  std::vector<int64_t> sizes;
  for (const Range& range : StageLayers(config, pp)) sizes.push_back(range.size());
  return sizes;
}

Shard MustShard(const ModelConfig& config, ParallelShape shape, int64_t rank) {
  const absl::StatusOr<Shard> shard = MakeShard(config, shape, rank, 8);
  EXPECT_TRUE(shard.ok()) << shard.status();
  return shard.ok() ? *shard : Shard();
}

// 416 rows are 52 units of 8: 18 + 17 + 17 units.
TEST(SplitUnits, LargerPartsComeFirst) {
  EXPECT_EQ(SplitUnits(416, 8, 3, 0), (Range{0, 144}));
  EXPECT_EQ(SplitUnits(416, 8, 3, 1), (Range{144, 280}));
  EXPECT_EQ(SplitUnits(416, 8, 3, 2), (Range{280, 416}));
}

// 21 rows are 3 units, the third of 5 rows.
TEST(SplitUnits, LastPartTakesThePartialUnit) {
  EXPECT_EQ(SplitUnits(21, 8, 2, 0), (Range{0, 16}));
  EXPECT_EQ(SplitUnits(21, 8, 2, 1), (Range{16, 21}));
}

TEST(SplitUnits, PartsBeyondTheUnitsAreEmpty) {
  EXPECT_EQ(SplitUnits(8, 8, 3, 0), (Range{0, 8}));
  EXPECT_EQ(SplitUnits(8, 8, 3, 1), (Range{8, 8}));
  EXPECT_EQ(SplitUnits(8, 8, 3, 2), (Range{8, 8}));
  EXPECT_EQ(SplitUnits(0, 8, 2, 1), (Range{0, 0}));
}

TEST(SplitUnits, PartsCoverEveryRowOnceAndDifferByAUnit) {
  for (int64_t total = 0; total < 100; ++total) {
    for (const int64_t unit : {1, 8, 16}) {
      for (int64_t ranks = 1; ranks <= 8; ++ranks) {
        int64_t next = 0;
        int64_t least = total;
        int64_t most = 0;
        for (int64_t rank = 0; rank < ranks; ++rank) {
          const Range part = SplitUnits(total, unit, ranks, rank);
          ASSERT_EQ(part.begin, next);
          ASSERT_GE(part.end, part.begin);
          next = part.end;
          least = std::min(least, part.size());
          most = std::max(most, part.size());
        }
        ASSERT_EQ(next, total);
        // A part with the partial unit may miss up to unit - 1 rows more.
        ASSERT_LT(most - least, 2 * unit) << total << " " << unit << " " << ranks;
      }
    }
  }
}

// 1003 / 3 is 334.3; the next multiple of 8 is 336. 151936 / 8 is a multiple of 16 already.
TEST(EqualWidth, IsTheLeastMultipleThatCovers) {
  EXPECT_EQ(EqualWidth(1003, 8, 3), 336);
  EXPECT_EQ(EqualWidth(1003, 8, 1), 1008);
  EXPECT_EQ(EqualWidth(151936, 16, 8), 18992);
  EXPECT_EQ(EqualWidth(5, 8, 4), 8);
}

TEST(StageLayers, EqualLayersSplitEvenlyLargerFirst) {
  constexpr int64_t kNoVocab = 0;
  EXPECT_THAT(StageSizes(80, kNoVocab, 3), ElementsAre(27, 27, 26));
  EXPECT_THAT(StageSizes(7, kNoVocab, 3), ElementsAre(3, 2, 2));
  EXPECT_THAT(StageSizes(7, kNoVocab, 7), ElementsAre(1, 1, 1, 1, 1, 1, 1));
  EXPECT_THAT(StageSizes(7, kNoVocab, 1), ElementsAre(7));
}

// A layer of Config() has (12 + 2 * 2) * 32 * 64 + 64 * 384 + 3 * 416 * 64 + 128 = 137,344
// elements. With 4 * 137,344 / 64 = 8584 vocabulary rows, embedding and head weigh 4 layers each:
// 10 layers and 8 more over 3 stages is 6 each, so 2 + 6 + 2.
TEST(StageLayers, EmbeddingAndHeadCountToTheEnds) {
  ASSERT_EQ(LayerParameters(Config(), 0), 137'344);
  EXPECT_THAT(StageSizes(10, 8584, 3), ElementsAre(2, 6, 2));
  EXPECT_THAT(StageSizes(10, 8584, 2), ElementsAre(5, 5));
}

TEST(StageLayers, EveryStageHasALayer) {
  EXPECT_THAT(StageSizes(4, 100'000, 4), ElementsAre(1, 1, 1, 1));
}

// Against every partition, for small models with layers of two weights.
TEST(StageLayers, LargestStageIsTheLeastPossible) {
  ModelConfig config = Config();
  config.layers = 9;
  config.moe = {.experts = 4,
                .experts_per_token = 2,
                .intermediate = 256,
                .shared_intermediate = 64,
                .sparse_step = 3,
                .dense_layers = {}};
  std::vector<int64_t> costs;
  for (int64_t layer = 0; layer < config.layers; ++layer)
    costs.push_back(LayerWeightBytes(config, layer));
  ASSERT_LT(costs[0], costs[2]);
  costs.front() += VocabWeightBytes(config);
  costs.back() += VocabWeightBytes(config);
  const auto sum = [&](int64_t begin, int64_t end) {
    int64_t bytes = 0;
    for (int64_t layer = begin; layer < end; ++layer) bytes += costs[static_cast<size_t>(layer)];
    return bytes;
  };
  // The least largest stage of layers [begin, 9) in `stages` stages.
  const std::function<int64_t(int64_t, int64_t)> least = [&](int64_t begin,
                                                             int64_t stages) -> int64_t {
    if (stages == 1) return sum(begin, config.layers);
    int64_t best = sum(0, config.layers);
    for (int64_t end = begin + 1; end + stages - 1 <= config.layers; ++end)
      best = std::min(best, std::max(sum(begin, end), least(end, stages - 1)));
    return best;
  };
  for (int64_t pp = 1; pp <= config.layers; ++pp) {
    int64_t largest = 0;
    int64_t next = 0;
    for (const Range& range : StageLayers(config, pp)) {
      EXPECT_EQ(range.begin, next);
      EXPECT_GT(range.size(), 0);
      next = range.end;
      largest = std::max(largest, sum(range.begin, range.end));
    }
    EXPECT_EQ(next, config.layers);
    EXPECT_EQ(largest, least(0, pp)) << pp;
  }
}

TEST(MakeShard, OneRankHoldsEverything) {
  const Shard shard = MustShard(Config(), {1, 1}, 0);
  EXPECT_EQ(shard.layers, (Range{0, 7}));
  EXPECT_EQ(shard.heads, (Range{0, 12}));
  EXPECT_EQ(shard.kv_heads, (Range{0, 2}));
  EXPECT_EQ(shard.ffn, (Range{0, 416}));
  EXPECT_EQ(shard.vocab, (Range{0, 1003}));
  EXPECT_TRUE(shard.first());
  EXPECT_TRUE(shard.last());
}

// The vocabulary's 1003 * 64 elements are half a layer's 137,344, so the stages are 2, 3, 2.
TEST(MakeShard, RanksCountTensorParallelFirst) {
  const Shard shard = MustShard(Config(), {2, 3}, 3);
  EXPECT_EQ(shard.tp_rank, 1);
  EXPECT_EQ(shard.stage, 1);
  EXPECT_EQ(shard.layers, (Range{2, 5}));
  EXPECT_FALSE(shard.first());
  EXPECT_FALSE(shard.last());
}

// 12 query heads on 2 kv heads over 4 ranks: 3 each, and ranks 0, 1 share kv head 0.
TEST(MakeShard, KvHeadsAreSharedWhenRanksOutnumberThem) {
  EXPECT_EQ(MustShard(Config(), {4, 1}, 0).kv_heads, (Range{0, 1}));
  EXPECT_EQ(MustShard(Config(), {4, 1}, 1).kv_heads, (Range{0, 1}));
  EXPECT_EQ(MustShard(Config(), {4, 1}, 2).kv_heads, (Range{1, 2}));
  EXPECT_EQ(MustShard(Config(), {4, 1}, 3).kv_heads, (Range{1, 2}));
  EXPECT_EQ(MustShard(Config(), {4, 1}, 3).heads, (Range{9, 12}));
}

TEST(MakeShard, HeadsOfARankReadOnlyItsKvHeads) {
  for (const int64_t kv_heads : {1, 2, 4, 6, 12}) {
    ModelConfig config = Config();
    config.kv_heads = kv_heads;
    for (const int64_t tp : {1, 2, 3, 4, 6, 12}) {
      if (kv_heads % tp != 0 && tp % kv_heads != 0) continue;
      for (int64_t rank = 0; rank < tp; ++rank) {
        const Shard shard = MustShard(config, {tp, 1}, rank);
        const int64_t per_kv = 12 / kv_heads;
        EXPECT_EQ(shard.kv_heads.begin, shard.heads.begin / per_kv);
        EXPECT_EQ(shard.kv_heads.end - 1, (shard.heads.end - 1) / per_kv);
        EXPECT_EQ(shard.kv_heads.size(), std::max(kv_heads / tp, int64_t{1}));
      }
    }
  }
}

TEST(MakeShard, VocabularyPartsHaveOneWidth) {
  ModelConfig config = Config();
  config.kv_heads = 12;
  EXPECT_EQ(MustShard(config, {3, 1}, 0).vocab, (Range{0, 336}));
  EXPECT_EQ(MustShard(config, {3, 1}, 1).vocab, (Range{336, 672}));
  EXPECT_EQ(MustShard(config, {3, 1}, 2).vocab, (Range{672, 1003}));
  EXPECT_EQ(MustShard(config, {3, 1}, 2).vocab_width, 336);
}

TEST(MakeShard, VocabularyMayLeaveTheLastRanksEmpty) {
  ModelConfig config = Config();
  config.vocab = 9;
  EXPECT_EQ(MustShard(config, {4, 1}, 1).vocab, (Range{8, 9}));
  EXPECT_EQ(MustShard(config, {4, 1}, 2).vocab, (Range{9, 9}));
  EXPECT_EQ(MustShard(config, {4, 1}, 3).vocab, (Range{9, 9}));
}

// 29568 rows are 231 groups of 128: 116 + 115.
TEST(MakeShard, QuantizedFeedForwardSplitsOnWholeGroups) {
  ModelConfig config = Config();
  config.intermediate = 29568;
  config.quant = {QuantMethod::kGptq, 4, 128, true};
  EXPECT_EQ(MustShard(config, {2, 1}, 0).ffn, (Range{0, 116 * 128}));
  EXPECT_EQ(MustShard(config, {2, 1}, 1).ffn, (Range{116 * 128, 29568}));
}

// One scale a column is held by every rank, and kernels and files set the step.
TEST(MakeShard, AWholeColumnsGroupSplitsOnWords) {
  ModelConfig config = Config();
  config.intermediate = 96;
  config.quant = {QuantMethod::kGptq, 4, -1, true};
  EXPECT_EQ(MustShard(config, {2, 1}, 0).ffn, (Range{0, 64}));
  EXPECT_EQ(MustShard(config, {2, 1}, 1).ffn, (Range{64, 96}));
}

TEST(MakeShard, WhatDoesNotSplitIsNamed) {
  EXPECT_THAT(MakeShard(Config(), {5, 1}, 0, 8),
              StatusIs(kInvalid, "12 query heads do not split over 5 ranks"));
  EXPECT_THAT(MakeShard(Config(), {3, 1}, 0, 8),
              StatusIs(kInvalid, "2 kv heads do not split over 3 ranks"));
  EXPECT_THAT(MakeShard(Config(), {1, 8}, 0, 8),
              StatusIs(kInvalid, "7 layers do not split over 8 stages"));
}

TEST(MakeShard, ShapesAndRanksOutOfRangeAreInvalid) {
  for (const auto& [tp, pp, rank] :
       {std::tuple(0, 1, 0), {1, 0, 0}, {-1, 1, 0}, {2, 2, 4}, {2, 2, -1}}) {
    EXPECT_THAT(MakeShard(Config(), {tp, pp}, rank, 8), StatusIs(kInvalid, HasSubstr("tp=")))
        << tp << " " << pp << " " << rank;
  }
  constexpr int64_t kHuge = int64_t{1} << 62;
  EXPECT_THAT(MakeShard(Config(), {kHuge, kHuge}, 0, 8), StatusIs(kInvalid, HasSubstr("split")));
}

}  // namespace
}  // namespace tessera
