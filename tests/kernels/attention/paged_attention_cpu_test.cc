#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/attention/paged_attention.h"
#include "kernels/runtime/cpu_pool.h"
#include "tests/kernels/attention/attention_case.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

// fp32 sums of up to a few thousand terms, 16 lanes at a time, and exp to 1e-7.
constexpr double kTolerance = 2e-5;

std::vector<float> RunOnThreads(int threads, const AttentionCase& c) {
  auto runtime = NewRuntime({.device = Device::kCpu, .cpu_threads = threads});
  TESSERA_CHECK(runtime.ok());
  return RunAttention(OpDevice(*std::move(runtime)), c);
}

using PagedAttentionCpuTest = CpuOpTest;

TEST_F(PagedAttentionCpuTest, AgreesWithADoubleReferenceForEveryGroupAndHeadSize) {
  for (int64_t group : {1, 2, 4, 5, 7, 8, 16})
    for (int64_t e : {32, 64, 128}) {
      SCOPED_TRACE(absl::StrCat("group ", group, " e ", e));
      const AttentionCase c =
          MakeAttentionCase({.h = 2 * group, .g = 2, .e = e}, {{1, 37}, {1, 16}, {5, 40}, {3, 3}});
      ExpectNear(RunAttention(cpu(), c), ReferenceAttention(c), kTolerance);
    }
}

TEST_F(PagedAttentionCpuTest, AgreesAroundEveryTileEdge) {
  for (int64_t context : {1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 3000}) {
    SCOPED_TRACE(context);
    const AttentionCase c = MakeAttentionCase({.block_size = 48}, {{1, context}, {1, 70}});
    ExpectNear(RunAttention(cpu(), c), ReferenceAttention(c), kTolerance);
  }
}

TEST_F(PagedAttentionCpuTest, DecodeNormalisesAndScalesHeads) {
  const AttentionCase c =
      MakeAttentionCase({.norm = true, .rope_scale = 1.25f}, {{1, 300}, {1, 2}, {4, 40}});
  ExpectNear(RunAttention(cpu(), c), ReferenceAttention(c), kTolerance);
}

TEST_F(PagedAttentionCpuTest, PeakedSoftmaxStaysExact) {
  const AttentionCase c = MakeAttentionCase({.q_stddev = 30.f}, {{1, 500}, {9, 300}});
  // Scores of several hundred carry an fp32 error near 1e-4 into the exponent.
  ExpectNear(RunAttention(cpu(), c), ReferenceAttention(c), 1e-3);
}

TEST_F(PagedAttentionCpuTest, PaddingSequencesAndRowsOfNoSequenceGiveZeros) {
  AttentionCase c = MakeAttentionCase({}, {{1, 20}, {1, 1, true}, {1, 5}, {2, 9}});
  c.extra_rows = 3;
  ExpectNear(RunAttention(cpu(), c), ReferenceAttention(c), kTolerance);
}

TEST_F(PagedAttentionCpuTest, TableEntriesOutsideTheCacheAreClamped) {
  AttentionCase c = MakeAttentionCase({}, {{1, 40}});
  MakeUniform(c);
  for (int32_t& entry : c.block_table) entry = entry % 2 == 0 ? -1000000 : 1000000;
  ExpectNear(RunAttention(cpu(), c), ReferenceAttention(c), kTolerance);
}

TEST_F(PagedAttentionCpuTest, ContextBeyondTheTableIsCutToIt) {
  AttentionCase c = MakeAttentionCase({}, {{1, 40}});
  MakeUniform(c);
  c.context[0] = 1000000;
  EXPECT_THAT(RunAttention(cpu(), c), ::testing::Each(::testing::FloatNear(0.5f, 1e-5f)));
}

TEST_F(PagedAttentionCpuTest, AnOrderOfTheOutputNeverChangesABit) {
  AttentionCase c =
      MakeAttentionCase({.h = 10, .g = 2, .e = 32}, {{1, 37}, {1, 1, true}, {5, 40}, {3, 3, true}});
  c.extra_rows = 2;
  const std::vector<float> plain = RunAttention(cpu(), c);
  c.ordered = true;
  EXPECT_EQ(RunAttention(cpu(), c), plain);
}

TEST_F(PagedAttentionCpuTest, ThreadCountNeverChangesABit) {
  const AttentionCase c = MakeAttentionCase({.h = 14, .g = 2}, {{1, 99}, {1, 7}, {13, 200}});
  const std::vector<float> one = RunOnThreads(1, c);
  for (int threads : {2, 3, 7}) EXPECT_EQ(RunOnThreads(threads, c), one) << threads;
}

TEST_F(PagedAttentionCpuTest, NeighboursAndBlockPlacesNeverChangeABit) {
  const AttentionShape shape{.h = 14, .g = 2};
  const auto row = static_cast<size_t>(shape.h * shape.e);
  const std::vector<float> alone = RunAttention(cpu(), MakeAttentionCase(shape, {{1, 333}}));
  std::vector<float> among = RunAttention(
      cpu(), MakeAttentionCase(shape, {{1, 333}, {1, 1200}, {30, 64}}, 1, /*shuffle_seed=*/99));
  among.resize(row);
  EXPECT_EQ(among, alone);
}

TEST_F(PagedAttentionCpuTest, ARowOfAPromptEqualsTheSameRowAsDecode) {
  const AttentionCase prompt = MakeAttentionCase({}, {{20, 120}});
  AttentionCase last = prompt;
  std::fill(last.inv_freq.begin(), last.inv_freq.end(), 0.f);  // raw heads stay as they are
  const auto row = static_cast<size_t>(prompt.shape.h * prompt.shape.e);
  last.q.assign(prompt.q.end() - static_cast<std::ptrdiff_t>(row), prompt.q.end());
  last.sequences = {{1, 120}};
  last.q_start = {0, 1};
  last.t = last.decode_sequences = 1;
  last.qkv = last.q;
  last.qkv.resize(row + static_cast<size_t>(2 * prompt.shape.g * prompt.shape.e), 0.f);
  last.positions = {119};
  last.kv_index = {-1};
  const std::vector<float> all = RunAttention(cpu(), prompt);
  EXPECT_EQ(RunAttention(cpu(), last),
            std::vector<float>(all.end() - static_cast<std::ptrdiff_t>(row), all.end()));
}

PagedAttentionArgs ValidEmptyArgs() {
  PagedAttentionArgs a;
  a.h = 4;
  a.g = 2;
  a.e = 64;
  a.block_size = 16;
  return a;
}

void ExpectRefused(const Stream& stream, absl::StatusCode code, const std::string& message,
                   const std::function<void(PagedAttentionArgs&)>& change) {
  PagedAttentionArgs a = ValidEmptyArgs();
  EXPECT_OK(PagedAttentionCpu(a, stream));
  change(a);
  EXPECT_THAT(PagedAttentionCpu(a, stream), StatusIs(code, HasSubstr(message)));
}

TEST_F(PagedAttentionCpuTest, NegativeSizeIsInvalid) {
  ExpectRefused(cpu().stream(), absl::StatusCode::kInvalidArgument, "t=-1",
                [](auto& a) { a.t = -1; });
}

TEST_F(PagedAttentionCpuTest, HeadsThatDoNotSplitAreInvalid) {
  ExpectRefused(cpu().stream(), absl::StatusCode::kInvalidArgument,
                "5 heads do not split over 2 kv heads", [](auto& a) { a.h = 5; });
}

TEST_F(PagedAttentionCpuTest, MoreDecodeSequencesThanSequencesIsInvalid) {
  ExpectRefused(cpu().stream(), absl::StatusCode::kInvalidArgument, "decode_sequences=3 of s=2",
                [](auto& a) {
                  a.s = 2;
                  a.t = 3;
                  a.decode_sequences = 3;
                });
}

TEST_F(PagedAttentionCpuTest, OneNormWeightAloneIsInvalid) {
  static const float weight[64] = {};
  ExpectRefused(cpu().stream(), absl::StatusCode::kInvalidArgument, "only the q norm weight",
                [](auto& a) { a.rotation.q_norm = weight; });
}

TEST_F(PagedAttentionCpuTest, OtherHeadSizesAreUnimplemented) {
  ExpectRefused(cpu().stream(), absl::StatusCode::kUnimplemented, "heads of 80",
                [](auto& a) { a.e = 80; });
}

TEST_F(PagedAttentionCpuTest, OtherBlockSizesAreUnimplemented) {
  ExpectRefused(cpu().stream(), absl::StatusCode::kUnimplemented, "blocks of 24 tokens",
                [](auto& a) { a.block_size = 24; });
}

TEST_F(PagedAttentionCpuTest, HalfPrecisionIsUnimplemented) {
  ExpectRefused(cpu().stream(), absl::StatusCode::kUnimplemented, "bf16 on the CPU",
                [](auto& a) { a.dtype = DType::kBf16; });
}

}  // namespace
}  // namespace tessera::testing
