// TokenLogprobs and CountTokens on CUDA against the CPU.
#include <cmath>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/sampling/sample.h"
#include "tests/support/op_fixture.h"
#include "tests/support/status_matchers.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

class TokenLogprobsGpuTest : public GpuOpTest {};

TEST_F(TokenLogprobsGpuTest, AgreesWithTheCpu) {
  SeededRandom random(1);
  for (const int64_t vocab : {1, 7, 4096, 4097, 151936}) {
    const int64_t width = (vocab + 7) / 8 * 8;
    constexpr int64_t kRows = 9;
    std::vector<float> logits = random.Normal(width * kRows, 5.f);
    logits[0] = NAN;
    logits[static_cast<size_t>(width)] = std::numeric_limits<float>::infinity();
    std::vector<int32_t> targets = {0, 0, -1, static_cast<int32_t>(vocab)};
    while (targets.size() < kRows) targets.push_back(static_cast<int32_t>(random.Below(vocab)));
    std::vector<std::vector<float>> results;
    for (OpDevice* on : {&cpu(), &gpu()}) {
      const auto l = on->Upload(logits);
      const auto t = on->Upload(targets);
      const auto out = on->Output<float>(kRows);
      const TokenLogprobsArgs args = {.logits = {.data = l.data(),
                                                 .rows = kRows,
                                                 .row_capacity = kRows,
                                                 .vocab = vocab,
                                                 .width = width},
                                      .targets = t.data(),
                                      .out = out.data()};
      ASSERT_OK(on == &cpu() ? TokenLogprobsCpu(args, on->stream())
                             : TokenLogprobsCuda(args, on->stream()));
      results.push_back(out.Read());
    }
    for (size_t i = 0; i < kRows; ++i) {
      if (results[0][i] == results[1][i]) continue;  // infinities
      // As in sample_gpu_test.cc; a thread sums up to 152 terms in a row here.
      EXPECT_NEAR(results[1][i], results[0][i], 6 * 0x1p-18f) << "vocab " << vocab << " row " << i;
    }
  }
}

TEST_F(TokenLogprobsGpuTest, ABadShapeIsRefused) {
  TokenLogprobsArgs args;
  args.logits = {.data = nullptr, .rows = -1, .row_capacity = 1, .vocab = 8, .width = 8};
  EXPECT_THAT(TokenLogprobsCuda(args, gpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rows=-1")));
}

class CountTokensGpuTest : public GpuOpTest {};

TEST_F(CountTokensGpuTest, AgreesWithTheCpuWhereTokensMeet) {
  SeededRandom random(2);
  constexpr int64_t kTokens = 20000, kSlots = 5, kVocab = 33;
  std::vector<int32_t> ids, seqs, positions;
  for (int64_t i = 0; i < kTokens; ++i) {
    ids.push_back(static_cast<int32_t>(random.Below(kVocab + 2) - 1));
    seqs.push_back(static_cast<int32_t>(random.Below(5) - 1));
    positions.push_back(static_cast<int32_t>(random.Below(100)));
  }
  const std::vector<int32_t> seq_slot = {3, 0, -1, 4};
  std::vector<SamplingParams> params(kSlots);
  for (SamplingParams& p : params) p = {.prompt_len = 20, .penalties = 1};
  params[0].penalties = 0;
  std::vector<uint16_t> table(kSlots * kVocab, 0);
  table[4 * kVocab + 3] = 0x7ff0;  // saturates
  std::vector<std::vector<uint16_t>> results;
  for (OpDevice* on : {&cpu(), &gpu()}) {
    const auto i = on->Upload(ids), q = on->Upload(seqs), p = on->Upload(positions);
    const auto s = on->Upload(seq_slot);
    const auto params_on = on->Upload(params);
    const auto seen = on->Upload(table);
    const CountTokensArgs args = {.token_ids = i.data(),
                                  .token_seq = q.data(),
                                  .positions = p.data(),
                                  .seq_slot = s.data(),
                                  .params = params_on.data(),
                                  .seen = {.table = seen.data(), .slots = kSlots, .vocab = kVocab},
                                  .t = kTokens,
                                  .s = static_cast<int64_t>(seq_slot.size())};
    ASSERT_OK(on == &cpu() ? CountTokensCpu(args, on->stream())
                           : CountTokensCuda(args, on->stream()));
    results.push_back(seen.Read());
  }
  EXPECT_EQ(results[1], results[0]);
}

TEST_F(CountTokensGpuTest, NegativeSizesAreRefused) {
  CountTokensArgs args;
  args.t = -1;
  EXPECT_THAT(CountTokensCuda(args, gpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("t=-1")));
}

}  // namespace
}  // namespace tessera::testing
