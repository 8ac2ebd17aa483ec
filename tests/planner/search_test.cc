#include "planner/search.h"

#include <absl/strings/str_cat.h>

#include "planner/explain.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

ModelConfig Named(absl::string_view name) {
  auto config = LoadModelConfig(absl::StrCat(TESSERA_SOURCE_DIR, "/benchmarks/models/", name));
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig();
}

struct Wanted {
  absl::string_view model = "qwen2-72b";
  absl::string_view gpu = "h200";
  absl::string_view quant = "none";
  int64_t context = 32768;
  int64_t sequences = 1;
};

PlanInput Input(const Wanted& wanted) {
  PlanInput input;
  input.config = Named(wanted.model);
  input.config.quant = *ParseQuantFormat(wanted.quant);
  input.gpu = *FindGpu(wanted.gpu);
  input.dtype = DefaultDType(input.config, input.gpu.spec);
  input.sequences = wanted.sequences;
  input.limits = ResolveLimits(input.config, input.gpu.spec,
                               {.context = wanted.context, .max_sequences = 0, .block_size = 0},
                               wanted.sequences);
  return input;
}

int64_t BytesOf(const RankPlan& rank, absl::string_view component) {
  for (const auto& [name, bytes] : BytesByComponent(rank))
    if (name == component) return bytes;
  return 0;
}

// Qwen2-72B by hand: a layer has q and o of 8192 x 8192, k and v of 1024 x 8192, three feed-forward
// matrices of 29568 x 8192, 8192 + 2 x 1024 biases and two norms of 8192; 80 layers, a final norm,
// and an embedding and a head of 152064 x 8192 each.
constexpr int64_t kLayerMatrices = 2 * 8192 * 8192 + 2 * 1024 * 8192 + int64_t{3} * 29568 * 8192;
constexpr int64_t kLayerVectors = 8192 + 2 * 1024 + 2 * 8192;
constexpr int64_t kVocabMatrices = int64_t{2} * 152064 * 8192;
constexpr int64_t kVectors72 = 80 * kLayerVectors + 8192;
constexpr int64_t kBf16Bytes72 = 2 * (80 * kLayerMatrices + kVectors72 + kVocabMatrices);
static_assert(kBf16Bytes72 == 145'412'407'296);

TEST(FindPlan, Bf16Of72BNeedsTwoH200) {
  const PlanInput input = Input({});
  ASSERT_LT(UsableBytes(input), kBf16Bytes72);
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(input));
  EXPECT_EQ(plan.shape, (ParallelShape{2, 1}));
}

TEST(FindPlan, CountsTheWeightsOf72BToTheByte) {
  PlanInput input = Input({});
  input.memory_cap = int64_t{1} << 40;
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(input));
  ASSERT_EQ(plan.ranks.size(), 1u);
  EXPECT_EQ(BytesOf(plan.ranks[0], "weights"), kBf16Bytes72);
}

TEST(FindPlan, FourBitOf72BFitsOneH200WithItsBytes) {
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(Input({.quant = "gptq-int4"})));
  ASSERT_EQ(plan.shape.ranks(), 1);
  // Half a byte a weight and an fp16 scale per 128; everything else stays bf16.
  EXPECT_EQ(
      BytesOf(plan.ranks[0], "weights"),
      80 * (kLayerMatrices / 2 + kLayerMatrices / 128 * 2) + 2 * (kVectors72 + kVocabMatrices));
}

TEST(FindPlan, EightBitOf72BFitsOneH200) {
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(Input({.quant = "gptq-int8"})));
  EXPECT_EQ(plan.shape.ranks(), 1);
}

TEST(FindPlan, CountsRoutedExpertsOf57B) {
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(Input({.model = "qwen2-57b-a14b"})));
  ASSERT_EQ(plan.shape.ranks(), 1);
  // A layer: 64 experts of three 2560 x 3584, a shared one of three 20480 x 3584 with its gate of
  // 3584, a router of 64 x 3584, q and o of 3584 x 3584, k and v of 512 x 3584, biases and norms.
  const int64_t layer = int64_t{64} * 3 * 2560 * 3584 + int64_t{3} * 20480 * 3584 + 3584 +
                        64 * 3584 + 2 * 3584 * 3584 + 2 * 512 * 3584 + (3584 + 2 * 512) + 2 * 3584;
  const int64_t vocab = 2 * Named("qwen2-57b-a14b").vocab * 3584;
  EXPECT_EQ(BytesOf(plan.ranks[0], "weights"), 2 * (28 * layer + 3584 + vocab));
}

TEST(FindPlan, KvOfOneSequenceIsTheModelsBytesPerToken) {
  PlanInput input = Input({});
  input.limits.max_sequences = 1;
  input.memory_cap = int64_t{1} << 40;
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(input));
  // PERFORMANCE.md: 327,680 bytes a token.
  EXPECT_EQ(BytesOf(plan.ranks[0], "kv"), int64_t{327680} * 32768);
}

TEST(FindPlan, PredictsWhatBandwidthAllowsAtBatchOne) {
  // PERFORMANCE.md: 318 tokens/s for 7B in bf16 and 4,550 for 0.5B, from weights alone.
  for (const auto& [model, tokens_per_s] :
       {std::pair<absl::string_view, double>{"qwen2-7b", 318}, {"qwen2-0.5b", 4550}}) {
    SCOPED_TRACE(model);
    ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(Input({.model = model, .context = 64})));
    EXPECT_NEAR(1000.0 / plan.ms_per_token, tokens_per_s, 0.005 * tokens_per_s);
  }
}

TEST(FindPlan, PredictsOnlyTheChosenExperts) {
  ASSERT_OK_AND_ASSIGN(const Plan plan,
                       FindPlan(Input({.model = "qwen2-57b-a14b", .context = 64})));
  EXPECT_NEAR(1000.0 / plan.ms_per_token, 164, 2);  // PERFORMANCE.md
}

TEST(FindPlan, AddsTwoSumsALayerForTensorParallelism) {
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(Input({.context = 64})));
  ASSERT_EQ(plan.shape, (ParallelShape{2, 1}));
  // Half of 142.9 GB (PERFORMANCE.md) at 4.50 TB/s, and 160 sums of 6.7 us.
  EXPECT_NEAR(plan.ms_per_token, 142.9e9 / 2 / 4.50e12 * 1e3 + 160 * 6.7e-3, 0.02);
}

TEST(FindPlan, StagesOfAPipelineAddUp) {
  PlanInput input = Input({.model = "qwen2-7b", .context = 64});
  ASSERT_OK_AND_ASSIGN(const Plan one, FindPlan(input));
  input.pp = 4;
  ASSERT_OK_AND_ASSIGN(const Plan four, FindPlan(input));
  EXPECT_NEAR(four.ms_per_token - one.ms_per_token, 3 * 0.015, 1e-4);
}

TEST(FindPlan, ForcedSplitIsKept) {
  PlanInput input = Input({.model = "qwen2-7b"});
  input.tp = 2;
  input.pp = 3;
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(input));
  EXPECT_EQ(plan.shape, (ParallelShape{2, 3}));
  EXPECT_EQ(plan.ranks.size(), 6u);
}

TEST(FindPlan, ForcedStagesLeaveTensorParallelismFree) {
  PlanInput input = Input({.gpu = "a100-40gb"});
  input.pp = 2;
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(input));
  EXPECT_EQ(plan.shape.pp, 2);
  EXPECT_GT(plan.shape.tp, 1);
}

TEST(FindPlan, SixtyFourHeadsOnThreeGpusArePipelined) {
  PlanInput input = Input({.gpu = "a100-80gb"});
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(input));
  EXPECT_EQ(plan.shape, (ParallelShape{1, 3}));
}

TEST(FindPlan, ExplainsTheSmallerCountInBytes) {
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(Input({})));
  EXPECT_THAT(plan.explanation, AllOf(HasSubstr("1 GPU "), HasSubstr("over by"),
                                      HasSubstr("weights 135.43 GiB (145,412,407,296 bytes)")));
}

TEST(FindPlan, OneGpuHasNothingSmaller) {
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(Input({.model = "qwen2-7b"})));
  EXPECT_THAT(plan.explanation, HasSubstr("nothing smaller"));
}

TEST(FindPlan, WarnsPastTheModelsPositions) {
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(Input({.model = "llama-2-13b", .context = 8192})));
  ASSERT_EQ(plan.warnings.size(), 1u);
  EXPECT_THAT(plan.warnings[0], AllOf(HasSubstr("8192"), HasSubstr("4096")));
}

TEST(FindPlan, DoesNotWarnWithinThem) {
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(Input({.model = "llama-2-13b", .context = 4096})));
  EXPECT_TRUE(plan.warnings.empty());
}

TEST(FindPlan, TooFewRanksSaysHowManyAndWhatIsMissing) {
  PlanInput input = Input({});
  input.max_ranks = 1;
  EXPECT_THAT(FindPlan(input),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("needs 2"), HasSubstr("weights 135.43 GiB"))));
}

TEST(FindPlan, RefusalFitsAnRpcsErrorText) {
  PlanInput input = Input({});
  input.memory_cap = int64_t{1} << 30;
  const absl::Status status = FindPlan(input).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_LT(status.message().size(), 6000u);  // gRPC leaves 8 KiB for all metadata
}

TEST(FindPlan, RefusesValuesByName) {
  const auto refused = [](absl::string_view words, auto change) {
    PlanInput input = Input({.model = "qwen2-7b"});
    change(input);
    EXPECT_THAT(FindPlan(input),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(std::string(words))));
  };
  refused("tp 3: 28 query heads", [](PlanInput& i) { i.tp = 3; });
  refused("pp 29: more stages than 28", [](PlanInput& i) { i.pp = 29; });
  refused("tp -1", [](PlanInput& i) { i.tp = -1; });
  refused("context 0", [](PlanInput& i) { i.limits.context = 0; });
  refused("context", [](PlanInput& i) { i.limits.context = INT64_MAX; });
  refused("block_size 0", [](PlanInput& i) { i.limits.block_size = 0; });
  refused("sequences 0", [](PlanInput& i) { i.sequences = 0; });
  refused("sequences 65: more than max_sequences 64", [](PlanInput& i) { i.sequences = 65; });
  refused("max_ranks 0", [](PlanInput& i) { i.max_ranks = 0; });
  refused("max_step_tokens", [](PlanInput& i) { i.limits.max_step_tokens = 1; });
}

struct Case {
  Wanted wanted;
  std::string name() const {
    return absl::StrCat(wanted.model, " ", wanted.gpu, " ", wanted.quant, " ", wanted.context,
                        " x ", wanted.sequences);
  }
};

// Models of every kind of split (14, 28, 40 and 64 heads, 2 to 40 kv heads), on large and small
// cards.
std::vector<Case> Grid() {
  std::vector<Case> grid;
  for (const char* model : {"qwen2-0.5b", "qwen2-7b", "qwen2-57b-a14b", "llama-2-13b", "qwen2-72b"})
    for (const char* gpu : {"h200", "a100-40gb", "l4"})
      for (const char* quant : {"none", "awq"})
        for (const int64_t context : {2048, 32768})
          for (const int64_t sequences : {1, 8})
            grid.push_back({{model, gpu, quant, context, sequences}});
  return grid;
}

TEST(FindPlanProperty, NeverPastTheMemoryOfARank) {
  for (const Case& c : Grid()) {
    SCOPED_TRACE(c.name());
    const PlanInput input = Input(c.wanted);
    ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(input));
    ASSERT_EQ(static_cast<int64_t>(plan.ranks.size()), plan.shape.ranks());
    for (const RankPlan& rank : plan.ranks) {
      EXPECT_EQ(rank.total_bytes, TotalBytes(rank.buffers) + rank.reserve_bytes);
      EXPECT_LE(rank.total_bytes, UsableBytes(input));
    }
  }
}

TEST(FindPlanProperty, OneGpuFewerDoesNotFit) {
  for (const Case& c : Grid()) {
    SCOPED_TRACE(c.name());
    PlanInput input = Input(c.wanted);
    ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(input));
    if (plan.shape.ranks() == 1) continue;
    input.max_ranks = plan.shape.ranks() - 1;
    EXPECT_EQ(FindPlan(input).status().code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST(FindPlanProperty, MoreContextOrSequencesNeverNeedFewerGpus) {
  for (const Case& c : Grid()) {
    SCOPED_TRACE(c.name());
    ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(Input(c.wanted)));
    Wanted longer = c.wanted, more = c.wanted;
    longer.context *= 2;
    more.sequences *= 2;
    ASSERT_OK_AND_ASSIGN(const Plan longer_plan, FindPlan(Input(longer)));
    ASSERT_OK_AND_ASSIGN(const Plan more_plan, FindPlan(Input(more)));
    EXPECT_GE(longer_plan.shape.ranks(), plan.shape.ranks());
    EXPECT_GE(more_plan.shape.ranks(), plan.shape.ranks());
  }
}

TEST(FindPlanProperty, TakesAllTheKvBlocksThatFit) {
  for (const Case& c : Grid()) {
    SCOPED_TRACE(c.name());
    const PlanInput input = Input(c.wanted);
    ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(input));
    const int64_t most = input.limits.max_sequences * input.limits.max_blocks();
    EXPECT_GE(plan.kv_blocks, input.sequences * input.limits.max_blocks());
    EXPECT_LE(plan.kv_blocks, most);
    if (plan.kv_blocks == most) continue;
    int64_t least_spare = INT64_MAX, block_bytes = 0;
    for (const RankPlan& rank : plan.ranks) {
      const int64_t bytes = KvBlockBytes({.config = input.config,
                                          .shard = rank.shard,
                                          .limits = input.limits,
                                          .device = input.gpu.spec,
                                          .dtype = input.dtype});
      const int64_t spare = UsableBytes(input) - rank.total_bytes - bytes;
      if (spare < least_spare) {
        least_spare = spare;
        block_bytes = bytes;
      }
    }
    // One more block does not fit the tightest rank, rounding of a buffer aside.
    EXPECT_LT(least_spare, kBufferAlignment) << "block of " << block_bytes;
  }
}

TEST(ResolveLimits, FillsOnlyWhatIsMissing) {
  const ModelConfig config = Named("qwen2-7b");
  const EngineLimits cuda =
      ResolveLimits(config, {Device::kCuda, 132}, {.max_sequences = 0, .block_size = 0}, 1);
  EXPECT_EQ(cuda.context, config.max_positions);
  EXPECT_EQ(cuda.max_sequences, 64);
  EXPECT_EQ(cuda.max_step_tokens, 2048);
  EXPECT_EQ(cuda.block_size, 64);
  const EngineLimits cpu = ResolveLimits(config, {Device::kCpu, 1},
                                         {.context = 100, .max_sequences = 3, .block_size = 32}, 1);
  EXPECT_EQ(cpu.context, 100);
  EXPECT_EQ(cpu.max_sequences, 3);
  EXPECT_EQ(cpu.max_step_tokens, 512);
  EXPECT_EQ(cpu.block_size, 32);
}

TEST(DefaultDType, CpuComputesInFp32AndFp32CheckpointsRunAsBf16OnGpus) {
  ModelConfig config;
  config.dtype = DType::kF32;
  EXPECT_EQ(DefaultDType(config, {Device::kCuda, 1}), DType::kBf16);
  config.dtype = DType::kF16;
  EXPECT_EQ(DefaultDType(config, {Device::kCuda, 1}), DType::kF16);
  EXPECT_EQ(DefaultDType(config, {Device::kCpu, 1}), DType::kF32);
}

TEST(Explain, NamesEveryComponentAndTheReason) {
  const PlanInput input = Input({});
  ASSERT_OK_AND_ASSIGN(const Plan plan, FindPlan(input));
  EXPECT_THAT(Explain(input, plan),
              AllOf(HasSubstr("2 GPUs of h200"), HasSubstr("weights"), HasSubstr("kv"),
                    HasSubstr("activations"), HasSubstr("reserve"), HasSubstr("why not fewer")));
}

TEST(FormatBytes, GroupsDigits) {
  EXPECT_EQ(FormatBytes(int64_t{1} << 30), "1.00 GiB (1,073,741,824 bytes)");
  EXPECT_EQ(FormatBytes(0), "0.00 GiB (0 bytes)");
  EXPECT_EQ(FormatBytes(123456), "0.00 GiB (123,456 bytes)");
}

}  // namespace
}  // namespace tessera
