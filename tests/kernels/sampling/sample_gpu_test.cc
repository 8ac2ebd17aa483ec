#include <algorithm>
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/sampling/sample.h"
#include "tests/kernels/sampling/sample_case.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

constexpr float kInf = std::numeric_limits<float>::infinity();

// Fp32 sums of up to 2^18 exponentials, each thread's 32 in a row, then trees: below 2^-18 of the
// sum; a log-probability below 64 rounds to 2^-18.
constexpr float kLogprobTolerance = 3 * 0x1p-18f;

// CUDA chooses the ids that the CPU chooses, bit for bit: sampling is integer arithmetic.
class SampleGpuTest : public GpuOpTest {
 protected:
  void ExpectAgreement(const SampleCase& c) {
    ASSERT_OK_AND_ASSIGN(const SampleResult on_cpu, RunSample(cpu(), c));
    ASSERT_OK_AND_ASSIGN(const SampleResult on_gpu, RunSample(gpu(), c));
    EXPECT_EQ(on_gpu.ids, on_cpu.ids);
    if (!c.any_logprobs) return;
    EXPECT_EQ(on_gpu.top_ids, on_cpu.top_ids);
    ExpectClose(on_gpu.logprobs, on_cpu.logprobs);
    ExpectClose(on_gpu.top_logprobs, on_cpu.top_logprobs);
  }
  static void ExpectClose(const std::vector<float>& a, const std::vector<float>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      if (a[i] == b[i]) continue;
      EXPECT_NEAR(a[i], b[i], kLogprobTolerance) << i;
    }
  }
  // Every row another mix of filters, penalties and seeds.
  static SampleCase Mixed(int64_t vocab, int rows, uint64_t seed) {
    SeededRandom random(seed);
    const float spread = 0.5f + 4.f * static_cast<float>(random.Unit());
    SampleCase c = OneSlotPerRow(vocab, random.Normal(vocab * rows, spread), {});
    c.any_logprobs = true;
    c.seen.assign(static_cast<size_t>(vocab * rows), 0);
    for (int i = 0; i < 50 * rows; ++i)
      c.seen[static_cast<size_t>(random.Below(vocab * rows))] =
          static_cast<uint16_t>(random.Below(4) | (random.Below(2) << 15));
    for (SamplingParams& p : c.params) {
      p.temperature = random.Below(5) == 0 ? 0.f : 0.3f + 1.5f * static_cast<float>(random.Unit());
      if (random.Below(2) == 0) p.top_p = static_cast<float>(1. - random.Unit());
      if (random.Below(2) == 0) p.top_k = static_cast<int32_t>(1 + random.Below(200));
      if (random.Below(4) == 0) p.top_k = static_cast<int32_t>(1 + random.Below(2 * vocab));
      if (random.Below(3) == 0) p.min_p = 0.2f * static_cast<float>(random.Unit());
      if (random.Below(2) == 0) {
        p.repetition_penalty = 1.3f;
        p.presence_penalty = 0.7f;
        p.frequency_penalty = 0.31f;
        p.penalties = 1;
      }
      p.logprobs = static_cast<int32_t>(random.Below(kMaxTopLogprobs + 1));
      p.seed_low = static_cast<uint32_t>(random.Bits());
      p.seed_high = static_cast<uint32_t>(random.Bits());
    }
    for (int32_t& index : c.draw_index) index = static_cast<int32_t>(random.Below(100000));
    return c;
  }
};

TEST_F(SampleGpuTest, AgreesOverVocabularySizes) {
  // Around a chunk of 8192 ids, a group of 4 and real models' sizes.
  for (const int64_t vocab : {1, 2, 3, 4, 5, 8, 31, 1000, 8191, 8192, 8193, 32000, 50257, 151936}) {
    SCOPED_TRACE(vocab);
    for (uint64_t seed = 0; seed < 4; ++seed) {
      ExpectAgreement(Mixed(vocab, vocab > 10000 ? 8 : 64, seed));
      if (HasFailure()) return;
    }
  }
}

TEST_F(SampleGpuTest, AgreesOnManyDraws) {
  for (uint64_t seed = 10; seed < 15; ++seed) ExpectAgreement(Mixed(2000, 1000, seed));
}

TEST_F(SampleGpuTest, AgreesOnShardedVocabularies) {
  for (const int64_t shards : {2, 3, 4, 8}) {
    SampleCase c = Mixed(30001, 9, 20);
    c.shards = shards;
    c.spare_rows = 3;
    ExpectAgreement(c);
  }
}

// All the candidates in one bin, more than the list in shared memory takes.
TEST_F(SampleGpuTest, AgreesOnFlatRows) {
  SeededRandom random(30);
  for (const float spread : {0.f, 1e-6f, 1e-3f}) {
    SampleCase c = OneSlotPerRow(20000, random.Normal(20000 * 8, spread), {.temperature = 1.f});
    for (size_t i = 0; i < 8; ++i) {
      c.params[i].seed_low = static_cast<uint32_t>(i);
      if (i % 2 == 1) c.params[i].top_p = 0.37f;
      if (i % 4 >= 2) c.params[i].top_k = 9000;
    }
    ExpectAgreement(c);
  }
}

TEST_F(SampleGpuTest, AgreesOnManyTies) {
  SeededRandom random(31);
  SampleCase c = OneSlotPerRow(10000, random.Normal(10000 * 16, 2.f), {.temperature = 1.f});
  for (float& logit : c.logits) logit = std::round(logit);
  for (size_t i = 0; i < 16; ++i) {
    c.params[i].seed_low = static_cast<uint32_t>(i);
    c.params[i].top_p = 0.05f + 0.06f * static_cast<float>(i);
    c.params[i].logprobs = 20;
  }
  c.any_logprobs = true;
  ExpectAgreement(c);
}

TEST_F(SampleGpuTest, AgreesOnExtremeParameters) {
  SeededRandom random(32);
  SampleCase c = OneSlotPerRow(3000, random.Normal(3000 * 12, 3.f), {.temperature = 1.f});
  c.params[0].top_p = 1e-45f;
  c.params[1].top_k = 1;
  c.params[2].top_k = 1 << 30;
  c.params[3].min_p = 1.f;
  c.params[4].temperature = std::numeric_limits<float>::denorm_min();
  c.params[5].temperature = std::numeric_limits<float>::max();
  c.params[6].temperature = kInf;
  c.params[7].temperature = -1.f;
  c.params[8].temperature = NAN;
  c.params[9].temperature = 1e-5f;
  c.params[10] = {.temperature = 1.f, .top_p = 1e-6f, .min_p = 1.f, .top_k = 3000};
  ExpectAgreement(c);
}

TEST_F(SampleGpuTest, AgreesOnHostileRows) {
  SeededRandom random(33);
  constexpr int64_t kVocab = 9000;
  for (const float temperature : {0.f, 1.f, 1e-30f, 1e30f}) {
    SampleCase c = OneSlotPerRow(kVocab, random.Normal(kVocab * 8, 3.f),
                                 {.temperature = temperature, .top_p = 0.9f, .logprobs = 20});
    const auto fill = [&](int64_t row, float with) {
      std::fill_n(c.logits.begin() + row * kVocab, kVocab, with);
    };
    fill(0, NAN);
    fill(1, -kInf);
    fill(2, kInf);
    fill(3, -kInf);
    c.logits[3 * kVocab + 8999] = -3e38f;
    for (int64_t i = 0; i < kVocab; i += 3) c.logits[static_cast<size_t>(4 * kVocab + i)] = NAN;
    c.logits[5 * kVocab + 17] = c.logits[5 * kVocab + 8500] = kInf;
    c.logits[6 * kVocab + 5] = 3e38f;
    c.seq_slot[7] = -1;
    c.any_logprobs = true;
    ExpectAgreement(c);
  }
}

TEST_F(SampleGpuTest, TheGreedyBatchPathAgrees) {
  SeededRandom random(34);
  for (const bool logprobs : {false, true}) {
    SampleCase c = OneSlotPerRow(151936, random.Normal(151936 * 5, 3.f), {.logprobs = 7});
    c.all_greedy = true;
    c.any_logprobs = logprobs;
    c.draw_index[2] = -1;
    ExpectAgreement(c);
  }
}

TEST_F(SampleGpuTest, ARowGivesTheSameWhateverTheBatch) {
  const SampleCase all = Mixed(40000, 12, 35);
  ASSERT_OK_AND_ASSIGN(const SampleResult together, RunSample(gpu(), all));
  for (size_t row = 0; row < 12; ++row) {
    SampleCase one = all;
    one.seq_slot = {all.seq_slot[row]};
    one.draw_index = {all.draw_index[row]};
    one.logits.assign(all.logits.begin() + static_cast<int64_t>(row) * 40000,
                      all.logits.begin() + static_cast<int64_t>(row + 1) * 40000);
    ASSERT_OK_AND_ASSIGN(const SampleResult alone, RunSample(gpu(), one));
    EXPECT_EQ(alone.ids[0], together.ids[row]);
    EXPECT_EQ(alone.logprobs[0], together.logprobs[row]);
    for (size_t j = 0; j < kMaxTopLogprobs; ++j) {
      EXPECT_EQ(alone.top_ids[j], together.top_ids[row * kMaxTopLogprobs + j]);
      EXPECT_EQ(alone.top_logprobs[j], together.top_logprobs[row * kMaxTopLogprobs + j]);
    }
  }
}

TEST_F(SampleGpuTest, BadArgumentsAreRefused) {
  SampleArgs args;
  args.logits = {.data = nullptr, .rows = 2, .row_capacity = 2, .vocab = 100, .width = 104};
  EXPECT_THAT(SampleCuda(args, gpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("workspace of 0 bytes")));
  args.logits.width = 100;
  EXPECT_THAT(SampleCuda(args, gpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("width=100")));
}

TEST_F(SampleGpuTest, NoRowsIsANoOp) {
  SampleArgs args;
  args.logits = {.data = nullptr, .rows = 0, .row_capacity = 0, .vocab = 100, .width = 104};
  EXPECT_OK(SampleCuda(args, gpu().stream()));
}

}  // namespace
}  // namespace tessera::testing
