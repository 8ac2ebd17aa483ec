#include "worker/step_allowance.h"

#include <vector>

#include <gtest/gtest.h>

namespace tessera {
namespace {

// A GPU rank of 2 layers with 4 heads of 64: a token's keys and values take 2 * 2 * 4 * 64 * 2 =
// 2,048 bytes.
LayoutInput GpuLayout(int64_t stages) {
  LayoutInput layout;
  layout.config.head_size = 64;
  layout.config.kv_heads = 4;
  layout.shard.shape.pp = stages;
  layout.shard.layers = {0, 2};
  layout.shard.heads = layout.shard.kv_heads = {0, 4};
  layout.limits.block_size = 64;
  layout.device.device = Device::kCuda;
  layout.dtype = DType::kBf16;
  return layout;
}

const std::vector<BufferSpec>& Buffers() {  // one second of reading each at 5e11 bytes/s
  static const std::vector<BufferSpec> buffers = {
      {.name = "qkv", .kind = BufferKind::kWeights, .bytes = 500'000'000'000},
      {.name = "kv", .kind = BufferKind::kKv, .bytes = 500'000'000'000},
      {.name = "scratch", .kind = BufferKind::kActivations, .bytes = 500'000'000'000}};
  return buffers;
}

TEST(StepAllowance, IsTenTimesReadingTheWeights) {
  const StepAllowance allowance(GpuLayout(1), Buffers());
  EXPECT_NEAR(absl::ToDoubleSeconds(allowance.For({})), 10, 1e-6);
}

TEST(StepAllowance, CountsTheRowsProducts) {  // a flop a byte and row: 5e11 * 40 / 2e13 = 1 s
  const StepAllowance allowance(GpuLayout(1), Buffers());
  EXPECT_NEAR(absl::ToDoubleSeconds(allowance.For({.rows = 40})), 20, 1e-6);
}

TEST(StepAllowance, CountsTheCacheThatIsReadNotTheCacheThereIs) {
  // 1e6 pairs read 2.048e9 bytes, 0.004096 s, and take 4 * 2 * 4 * 64 * 1e6 flops, 0.0001024 s.
  const StepAllowance allowance(GpuLayout(1), Buffers());
  EXPECT_NEAR(absl::ToDoubleSeconds(allowance.For({.pairs = 1'000'000})), 10.041984, 1e-6);
}

TEST(StepAllowance, ReadsTheWholeCacheAtMost) {  // 1e9 pairs: 1 s of cache, 0.1024 s of products
  const StepAllowance allowance(GpuLayout(1), Buffers());
  EXPECT_NEAR(absl::ToDoubleSeconds(allowance.For({.pairs = 1'000'000'000})), 21.024, 1e-6);
}

TEST(StepAllowance, CoversAllStages) {
  const StepAllowance allowance(GpuLayout(3), Buffers());
  EXPECT_NEAR(absl::ToDoubleSeconds(allowance.For({})), 30, 1e-6);
}

TEST(StepAllowance, IsFiveSecondsAtLeast) {
  const StepAllowance allowance(GpuLayout(1), {});
  EXPECT_EQ(allowance.For({.rows = 1, .pairs = 1}), absl::Seconds(5));
}

TEST(StepWork, OfADraftCountsEveryRowAgainstItsContext) {
  StepDraft draft;
  draft.sequences = {{.tokens = {1}, .first_position = 99}, {.tokens = {1, 2, 3}}};
  const StepWork work = WorkOf(draft);
  EXPECT_EQ(work.rows, 4);
  EXPECT_EQ(work.pairs, 100 + 3 * 3);
}

}  // namespace
}  // namespace tessera
