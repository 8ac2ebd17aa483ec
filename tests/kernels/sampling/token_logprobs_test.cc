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

class TokenLogprobsTest : public CpuOpTest {
 protected:
  // One shard of `width` ids.
  std::vector<float> Run(const std::vector<float>& logits, int64_t vocab, int64_t width,
                         const std::vector<int32_t>& targets) {
    std::vector<float> out(targets.size(), NAN);
    const auto rows = static_cast<int64_t>(targets.size());
    const TokenLogprobsArgs args = {.logits = {.data = logits.data(),
                                               .rows = rows,
                                               .row_capacity = rows,
                                               .vocab = vocab,
                                               .width = width},
                                    .targets = targets.data(),
                                    .out = out.data()};
    EXPECT_OK(TokenLogprobsCpu(args, cpu().stream()));
    return out;
  }
};

TEST_F(TokenLogprobsTest, IsTheLogSoftmaxInDoublePrecision) {
  SeededRandom random(1);
  constexpr int64_t kVocab = 1001, kWidth = 1008, kRows = 20;
  const std::vector<float> logits = random.Normal(kWidth * kRows, 6.f);
  std::vector<int32_t> targets;
  for (int64_t i = 0; i < kRows; ++i) targets.push_back(static_cast<int32_t>(random.Below(kVocab)));
  const std::vector<float> out = Run(logits, kVocab, kWidth, targets);
  for (int64_t row = 0; row < kRows; ++row) {
    const float* l = &logits[static_cast<size_t>(row * kWidth)];
    double sum = 0.;
    for (int64_t id = 0; id < kVocab; ++id) sum += std::exp(double{l[id]});
    const auto i = static_cast<size_t>(row);
    // Both round a value below 64 once to fp32.
    EXPECT_NEAR(out[i], l[targets[i]] - std::log(sum), 64 * 0x1p-24) << row;
  }
}

TEST_F(TokenLogprobsTest, TargetsOutsideTheVocabularyGiveZero) {
  const std::vector<float> logits(24, 1.f);
  EXPECT_THAT(Run(logits, 7, 8, {-1, 7, 1 << 30}), ::testing::Each(0.f));
}

TEST_F(TokenLogprobsTest, HostileRows) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<float> logits(16, NAN);
  logits[8] = kInf;
  logits[9] = 3.f;
  const std::vector<float> out = Run(logits, 8, 8, {0, 1});
  EXPECT_EQ(out[0], -kInf);
  EXPECT_EQ(out[1], -kInf);
}

TEST_F(TokenLogprobsTest, ABadShapeIsRefused) {
  TokenLogprobsArgs args;
  args.logits = {.data = nullptr, .rows = 1, .row_capacity = 1, .vocab = 8, .width = 4};
  EXPECT_THAT(TokenLogprobsCpu(args, cpu().stream()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("token_logprobs: rows=1")));
}

}  // namespace
}  // namespace tessera::testing
