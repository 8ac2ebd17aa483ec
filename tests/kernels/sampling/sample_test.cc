#include "kernels/sampling/sample.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "kernels/sampling/sample_math.h"
#include "tests/kernels/sampling/sample_case.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class SampleTest : public CpuOpTest {
 protected:
  SampleResult Sample(const SampleCase& c) {
    auto result = RunSample(cpu(), c);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *result : SampleResult{};
  }
  // The ids that `draws` draws gave.
  std::set<int32_t> Drawn(const std::vector<float>& row, const SamplingParams& p, int draws = 500) {
    const std::vector<int32_t> ids = Sample(Draws(row, p, draws)).ids;
    return {ids.begin(), ids.end()};
  }
};

// Pearson's statistic over the cells that expect 5 or more, the others as one. `cells` gets their
// number.
double ChiSquare(const std::vector<int32_t>& ids, const std::vector<double>& probabilities,
                 int* cells) {
  std::vector<double> seen(probabilities.size(), 0.);
  for (const int32_t id : ids) seen[static_cast<size_t>(id)] += 1.;
  const auto draws = static_cast<double>(ids.size());
  double sum = 0., rest_seen = 0., rest_expected = 0.;
  *cells = 0;
  for (size_t i = 0; i < seen.size(); ++i) {
    const double expected = draws * probabilities[i];
    if (expected < 5.) {
      rest_seen += seen[i];
      rest_expected += expected;
      continue;
    }
    sum += (seen[i] - expected) * (seen[i] - expected) / expected;
    ++*cells;
  }
  if (rest_expected >= 1.) {
    sum += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
    ++*cells;
  }
  return sum;
}

TEST_F(SampleTest, GreedyTakesTheLowestIdAmongEquals) {
  const SampleCase c = OneSlotPerRow(5, {1, 3, 2, 3, 3, -1, -2, -1, -3, -9}, {});
  EXPECT_THAT(Sample(c).ids, ElementsAre(1, 0));
}

TEST_F(SampleTest, NegativeZeroEqualsZero) {
  EXPECT_THAT(Sample(OneSlotPerRow(3, {-1.f, -0.f, 0.f}, {})).ids, ElementsAre(1));
}

TEST_F(SampleTest, AllGreedyPromiseGivesTheSameIds) {
  SeededRandom random(1);
  SampleCase c = OneSlotPerRow(1000, random.Normal(8000, 3.f), {});
  const auto ids = Sample(c).ids;
  c.all_greedy = true;
  EXPECT_EQ(Sample(c).ids, ids);
}

TEST_F(SampleTest, SkippedRowsGiveMinusOne) {
  SampleCase c = OneSlotPerRow(2, {1, 2, 1, 2, 1, 2}, {});
  c.seq_slot[0] = -1;
  c.draw_index[2] = -1;
  c.any_logprobs = true;
  const SampleResult r = Sample(c);
  EXPECT_THAT(r.ids, ElementsAre(-1, 1, -1));
  EXPECT_EQ(r.logprobs[0], 0.f);
  EXPECT_EQ(r.top_ids[0], -1);
}

TEST_F(SampleTest, NanCountsAsMinusInfinity) {
  EXPECT_THAT(Sample(OneSlotPerRow(3, {kNan, -5, kNan}, {})).ids, ElementsAre(1));
  EXPECT_THAT(Drawn({kNan, -5, kNan}, {.temperature = 1.f}), ElementsAre(1));
}

TEST_F(SampleTest, ARowWithNothingAboveMinusInfinityGivesZero) {
  for (const float temperature : {0.f, 1.f}) {
    const SampleCase c =
        OneSlotPerRow(3, {kNan, -kInf, kNan, -kInf, -kInf, -kInf}, {.temperature = temperature});
    EXPECT_THAT(Sample(c).ids, ElementsAre(0, 0)) << temperature;
  }
}

TEST_F(SampleTest, PlusInfinitiesShareTheProbability) {
  EXPECT_THAT(Sample(OneSlotPerRow(4, {3, kInf, 5, kInf}, {})).ids, ElementsAre(1));
  EXPECT_THAT(Drawn({3, kInf, 5, kInf}, {.temperature = 1.f}), ElementsAre(1, 3));
}

TEST_F(SampleTest, PaddingIdsAreNeverChosen) {  // the case pads with +inf
  SeededRandom random(2);
  for (const int64_t vocab : {1, 7, 8, 9, 63}) {
    const auto ids = Drawn(random.Normal(vocab, 1.f), {.temperature = 5.f});
    EXPECT_LT(*ids.rbegin(), vocab);
  }
}

TEST_F(SampleTest, AVocabularyOfOneToken) {
  EXPECT_THAT(Drawn({-3}, {.temperature = 1.f, .top_p = 0.1f, .top_k = 5}), ElementsAre(0));
}

TEST_F(SampleTest, ATinyTemperatureIsGreedyAndDoesNotOverflow) {
  for (const float t : {1e-6f, 1e-30f, std::numeric_limits<float>::denorm_min()})
    EXPECT_THAT(Drawn({1e30f, 2.f, 3e30f, -1e38f}, {.temperature = t}), ElementsAre(2)) << t;
}

TEST_F(SampleTest, AHugeTemperatureIsUniformOverFiniteLogits) {
  EXPECT_THAT(Drawn({1, -kInf, 100, -200}, {.temperature = 1e30f}), ElementsAre(0, 2, 3));
}

TEST_F(SampleTest, BadTemperaturesAreGreedy) {
  for (const float t : {-1.f, kNan})
    EXPECT_THAT(Drawn({1, 1.1f, 1}, {.temperature = t}), ElementsAre(1)) << t;
}

TEST_F(SampleTest, TopPCutsEqualLogitsByIdLowestKept) {
  // Ten equal tokens, half of the weight dropped from the highest ids down.
  EXPECT_THAT(Drawn(std::vector<float>(10, 2.f), {.temperature = 1.f, .top_p = 0.5f}),
              ElementsAre(0, 1, 2, 3, 4));
}

TEST_F(SampleTest, TopKKeepsAllThatEqualTheLast) {
  EXPECT_THAT(Drawn({1, 2, 2, 3, 2, 0}, {.temperature = 1.f, .top_k = 2}), ElementsAre(1, 2, 3, 4));
}

TEST_F(SampleTest, PenaltiesFollowTheirFormulas) {
  // Repetition 2: seen 4 -> 2, seen -1 -> -2. Then frequency 0.5 a time and presence 0.25 for
  // output tokens: id 0 (twice): 4/2 - 1 - 0.25 = 0.75; id 1 (prompt only): 3/2 = 1.5;
  // id 2 (unseen) 1.4; id 3: -1 * 2 = -2.
  constexpr uint16_t kPrompt = 0x8000;
  SamplingParams p = {.repetition_penalty = 2.f,
                      .presence_penalty = 0.25f,
                      .frequency_penalty = 0.5f,
                      .penalties = 1};
  EXPECT_EQ(PenalisedLogit(4.f, 2, p), 0.75f);
  EXPECT_EQ(PenalisedLogit(3.f, kPrompt, p), 1.5f);
  EXPECT_EQ(PenalisedLogit(-1.f, kPrompt, p), -2.f);
  EXPECT_EQ(PenalisedLogit(4.f, kPrompt | 2, p), 0.75f);
  SampleCase c = OneSlotPerRow(4, {4, 3, 1.4f, -1}, p);
  c.seen = {2, kPrompt, 0, kPrompt};
  EXPECT_THAT(Sample(c).ids, ElementsAre(1));
}

TEST_F(SampleTest, LogprobsAreOfTheUntouchedLogits) {
  SamplingParams p = {.repetition_penalty = 10.f, .logprobs = 2, .penalties = 1};
  SampleCase c = OneSlotPerRow(3, {2, 1, 0}, p);
  c.seen = {1, 0, 0};
  c.any_logprobs = true;
  const SampleResult r = Sample(c);
  // log(e^2 + e + 1) = 2.40760596444438
  EXPECT_EQ(r.ids[0], 1);
  EXPECT_FLOAT_EQ(r.logprobs[0], 1.f - 2.40760596444438f);
  EXPECT_EQ(r.top_ids[0], 0);
  EXPECT_EQ(r.top_ids[1], 1);
  EXPECT_FLOAT_EQ(r.top_logprobs[0], 2.f - 2.40760596444438f);
  EXPECT_FLOAT_EQ(r.top_logprobs[1], 1.f - 2.40760596444438f);
  for (int i = 2; i < kMaxTopLogprobs; ++i) EXPECT_EQ(r.top_ids[static_cast<size_t>(i)], -1);
}

TEST_F(SampleTest, TopLogprobsListLowerIdsFirstAmongEquals) {
  SampleCase c = OneSlotPerRow(5, {1, 7, 1, 7, 1}, {.logprobs = 4});
  c.any_logprobs = true;
  const SampleResult r = Sample(c);
  EXPECT_THAT(std::vector<int32_t>(r.top_ids.begin(), r.top_ids.begin() + 5),
              ElementsAre(1, 3, 0, 2, -1));
}

TEST_F(SampleTest, MoreTopLogprobsThanTokensGivesEachTokenOnce) {
  SampleCase c = OneSlotPerRow(2, {0, 1}, {.logprobs = 20});
  c.any_logprobs = true;
  const SampleResult r = Sample(c);
  EXPECT_THAT(std::vector<int32_t>(r.top_ids.begin(), r.top_ids.begin() + 3),
              ElementsAre(1, 0, -1));
}

TEST_F(SampleTest, LogprobsOfHostileRowsAreNeverNan) {
  SampleCase c =
      OneSlotPerRow(3, {kNan, kNan, kNan, -kInf, kInf, 4, kNan, 2, -kInf}, {.logprobs = 3});
  c.any_logprobs = true;
  const SampleResult r = Sample(c);
  EXPECT_EQ(r.logprobs[0], -kInf);
  EXPECT_EQ(r.logprobs[1], 0.f);
  EXPECT_EQ(r.logprobs[2], 0.f);
  for (const float v : r.top_logprobs) EXPECT_FALSE(std::isnan(v));
}

TEST_F(SampleTest, ADrawDependsOnSeedAndIndexNotOnTheBatch) {
  SeededRandom random(3);
  const std::vector<float> row = random.Normal(500, 2.f), other = random.Normal(500, 2.f);
  const SamplingParams p = {.temperature = 1.f, .top_p = 0.9f, .seed_low = 5, .seed_high = 6};
  const std::vector<int32_t> alone = Sample(Draws(row, p, 50)).ids;
  SampleCase mixed;  // the same draws, last first, between rows of another request
  mixed.vocab = 500;
  mixed.params = {{.temperature = 2.f, .seed_low = 99}, p};
  for (int i = 49; i >= 0; --i) {
    mixed.logits.insert(mixed.logits.end(), other.begin(), other.end());
    mixed.logits.insert(mixed.logits.end(), row.begin(), row.end());
    mixed.seq_slot.insert(mixed.seq_slot.end(), {0, 1});
    mixed.draw_index.insert(mixed.draw_index.end(), {7, i});
  }
  const std::vector<int32_t> ids = Sample(mixed).ids;
  for (size_t i = 0; i < 50; ++i) EXPECT_EQ(ids[2 * (49 - i) + 1], alone[i]) << i;
}

TEST_F(SampleTest, OtherSeedsGiveOtherDraws) {
  const std::vector<float> row(100, 0.f);
  const auto a = Sample(Draws(row, {.temperature = 1.f, .seed_low = 1}, 64)).ids;
  const auto b = Sample(Draws(row, {.temperature = 1.f, .seed_low = 2}, 64)).ids;
  const auto c = Sample(Draws(row, {.temperature = 1.f, .seed_low = 1, .seed_high = 1}, 64)).ids;
  EXPECT_NE(a, b);
  EXPECT_NE(a, c);
}

TEST_F(SampleTest, AShardedVocabularyGivesTheSame) {
  SeededRandom random(4);
  SampleCase c = OneSlotPerRow(333, random.Normal(333 * 16, 2.f),
                               {.temperature = 0.8f, .top_p = 0.95f, .top_k = 50, .logprobs = 5});
  c.any_logprobs = true;
  const SampleResult whole = Sample(c);
  for (const int64_t shards : {2, 3, 8}) {
    c.shards = shards;
    c.spare_rows = 5;
    const SampleResult split = Sample(c);
    EXPECT_EQ(split.ids, whole.ids);
    EXPECT_EQ(split.logprobs, whole.logprobs);
    EXPECT_EQ(split.top_ids, whole.top_ids);
  }
}

// What is kept, and how often each token is drawn, against transformers (tools/
// make_sampling_golden.py). 20,000 draws with one fixed seed.
class WarperTest : public SampleTest {
 protected:
  static std::vector<nlohmann::json> Cases() {
    std::ifstream file(std::string(TESSERA_TEST_DATA) + "/sampling/warpers.json");
    const auto json = nlohmann::json::parse(file, nullptr, false);
    return json["cases"].get<std::vector<nlohmann::json>>();
  }
  static SampleCase CaseOf(const nlohmann::json& golden, int draws) {
    SamplingParams p;
    p.temperature = golden.value("temperature", 1.f);
    p.top_p = golden.value("top_p", 1.f);
    p.min_p = golden.value("min_p", 0.f);
    p.repetition_penalty = golden.value("repetition_penalty", 1.f);
    p.top_k = golden.value("top_k", 0);
    p.penalties = golden.contains("seen") ? 1 : 0;
    p.seed_low = 17;
    SampleCase c = Draws(golden["logits"].get<std::vector<float>>(), p, draws);
    if (!golden.contains("seen")) return c;
    c.seen.assign(static_cast<size_t>(c.vocab), 0);
    for (const int id : golden["seen"]) c.seen[static_cast<size_t>(id)] = 0x8000;
    return c;
  }
};

TEST_F(WarperTest, OnlyTokensThatTransformersKeepsAreDrawnAndAllOfThem) {
  for (const auto& golden : Cases()) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    const auto probabilities = golden["probabilities"].get<std::vector<double>>();
    const std::vector<int32_t> ids = Sample(CaseOf(golden, 20000)).ids;
    const std::set<int32_t> drawn(ids.begin(), ids.end());
    for (size_t i = 0; i < probabilities.size(); ++i) {
      const bool was = drawn.count(static_cast<int32_t>(i)) != 0;
      if (probabilities[i] == 0.) {
        EXPECT_FALSE(was) << "token " << i;
      }
      // A token that expects 20 draws or more is missed with a chance below e^-20.
      if (probabilities[i] > 1e-3) {
        EXPECT_TRUE(was) << "token " << i;
      }
    }
  }
}

TEST_F(WarperTest, DrawsFollowTheDistribution) {
  for (const auto& golden : Cases()) {
    const auto probabilities = golden["probabilities"].get<std::vector<double>>();
    int cells = 0;
    const double statistic = ChiSquare(Sample(CaseOf(golden, 20000)).ids, probabilities, &cells);
    // Mean cells - 1, variance twice that; five standard deviations.
    const double freedom = std::max(cells - 1, 1);
    EXPECT_LT(statistic, freedom + 5. * std::sqrt(2. * freedom)) << golden["name"];
  }
}

TEST_F(SampleTest, DrawsFromALargeVocabularyFollowTheDistribution) {
  SeededRandom random(5);
  const std::vector<float> row = random.Normal(20011, 2.f);
  std::vector<double> p(row.size());
  std::transform(row.begin(), row.end(), p.begin(), [](float v) { return std::exp(double{v}); });
  const double sum = std::accumulate(p.begin(), p.end(), 0.);
  for (double& v : p) v /= sum;
  int cells = 0;
  std::vector<int32_t> ids;
  for (int batch = 0; batch < 20; ++batch) {
    const auto more =
        Sample(Draws(row, {.temperature = 1.f, .seed_low = static_cast<uint32_t>(batch)}, 200)).ids;
    ids.insert(ids.end(), more.begin(), more.end());
  }
  const double statistic = ChiSquare(ids, p, &cells);
  EXPECT_LT(statistic, cells - 1 + 5. * std::sqrt(2. * (cells - 1)));
}

TEST_F(SampleTest, EveryBadShapeIsRefused) {
  const auto code = [&](auto change) {
    std::vector<float> logits(16, 0.f);
    SampleArgs a;
    a.logits = {.data = logits.data(), .rows = 0, .row_capacity = 1, .vocab = 8, .width = 8};
    change(a.logits);
    return SampleCpu(a, cpu().stream());
  };
  const auto refused = StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sample: rows="));
  EXPECT_OK(code([](LogitsView&) {}));
  EXPECT_THAT(code([](LogitsView& v) { v.rows = -1; }), refused);
  EXPECT_THAT(code([](LogitsView& v) { v.vocab = 0; }), refused);
  EXPECT_THAT(code([](LogitsView& v) { v.vocab = kMaxVocab + 1; }), refused);
  EXPECT_THAT(code([](LogitsView& v) { v.width = 12; }), refused);
  EXPECT_THAT(code([](LogitsView& v) { v.width = 0; }), refused);
  EXPECT_THAT(code([](LogitsView& v) { v.row_capacity = -1; }), refused);
}

TEST(SampleConfig, TheCpuNeedsNoWorkspaceAndCudaMoreWithEachRow) {
  EXPECT_EQ(SampleWorkspaceBytes(Device::kCpu, 16, 1000), 0);
  EXPECT_EQ(SampleWorkspaceBytes(Device::kCuda, 0, 1000), 0);
  EXPECT_GT(SampleWorkspaceBytes(Device::kCuda, 1, 1000), 0);
  EXPECT_GT(SampleWorkspaceBytes(Device::kCuda, 2, 1000),
            SampleWorkspaceBytes(Device::kCuda, 1, 1000));
}

}  // namespace
}  // namespace tessera::testing
