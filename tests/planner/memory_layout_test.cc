#include "planner/memory_layout.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/align.h"
#include "model/quant_modules.h"
#include "planner/step_capacity.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::tessera::testing::StatusIs;
using ::testing::HasSubstr;

// A model whose sizes are easy to multiply by hand.
LayoutInput Small(int64_t tp = 1, int64_t pp = 1, int64_t rank = 0) {
  LayoutInput in;
  in.config.architecture = "LlamaForCausalLM";
  in.config.layers = 4;
  in.config.hidden = 64;
  in.config.heads = 4;
  in.config.kv_heads = 2;
  in.config.head_size = 32;
  in.config.intermediate = 128;
  in.config.vocab = 1000;
  in.config.max_positions = 256;
  in.config.dtype = DType::kF32;
  in.shard = MakeShard(in.config, {tp, pp}, rank, 8).value();
  in.limits = {.context = 256, .max_sequences = 2, .max_step_tokens = 32, .block_size = 16};
  in.kv_blocks = 10;
  return in;
}

std::map<std::string, int64_t> BytesByName(const LayoutInput& in) {
  std::map<std::string, int64_t> bytes;
  const std::vector<BufferSpec> layout = MemoryLayout(in).value();
  for (const BufferSpec& b : layout) bytes[b.name] = b.bytes;
  return bytes;
}

TEST(MemoryLayout, SizesAreTheHandCalculatedOnes) {
  const auto bytes = BytesByName(Small());
  EXPECT_EQ(bytes.at("activated_row"), 128 * 4);
  EXPECT_EQ(bytes.at("layers.0.qkv"), (4 + 2 + 2) * 32 * 64 * 4);
  EXPECT_EQ(bytes.at("layers.3.gate_up"), 2 * 128 * 64 * 4);
  EXPECT_EQ(bytes.at("layers.0.attn_norm"), 256);  // 64 floats
  EXPECT_EQ(bytes.at("embed"), 1000 * 64 * 4);
  // 10 blocks of 16 tokens, 4 layers, k and v, 2 heads of 32 floats.
  EXPECT_EQ(bytes.at("kv"), 10 * 16 * 4 * 2 * 2 * 32 * 4);
  EXPECT_EQ(bytes.at("block_table"), 256);                // 2 x 16 int32, rounded up
  EXPECT_EQ(bytes.at("seen_tokens"), 2 * 1000 * 2 + 96);  // 4000, rounded up to 4096
  EXPECT_EQ(bytes.at("logits"), 2 * 1000 * 4 + 192);      // 8000, rounded up to 8192
}

TEST(MemoryLayout, EveryBufferIsAlignedAndNamedOnce) {
  for (const int64_t rank : {0, 1, 2, 3}) {
    const LayoutInput in = Small(2, 2, rank);
    const auto layout = MemoryLayout(in).value();
    EXPECT_EQ(BytesByName(in).size(), layout.size());
    for (const BufferSpec& b : layout) EXPECT_EQ(b.bytes % kBufferAlignment, 0) << b.name;
  }
}

TEST(MemoryLayout, TensorParallelRanksHoldTheWeightsOnceTogether) {
  int64_t whole = 0, sharded = 0;
  const auto matrices = [](const LayoutInput& in) {
    int64_t bytes = 0;
    const std::vector<BufferSpec> layout = MemoryLayout(in).value();
    for (const BufferSpec& b : layout) {
      const bool vector = b.name.find("norm") != std::string::npos;
      if (b.kind == BufferKind::kWeights && !vector) bytes += b.bytes;
    }
    return bytes;
  };
  whole = matrices(Small());
  for (const int64_t rank : {0, 1}) sharded += matrices(Small(2, 1, rank));
  // The vocabulary of 1000 splits into two shards of one width, 504: 8 rows of padding in embed and
  // head.
  EXPECT_EQ(sharded - whole, 2 * 8 * 64 * 4);
}

TEST(MemoryLayout, OnlyTheLastStageHoldsLogitsAndSeenTokens) {
  EXPECT_EQ(BytesByName(Small(1, 2, 0)).count("logits"), 0u);
  EXPECT_EQ(BytesByName(Small(1, 2, 0)).count("seen_tokens"), 0u);
  EXPECT_EQ(BytesByName(Small(1, 2, 1)).count("logits"), 1u);
}

TEST(MemoryLayout, EachStageHasALaneOfSampledIds) {
  EXPECT_EQ(Lanes({.tp = 2, .pp = 3}), 3);
  EXPECT_EQ(StepsInFlight({.tp = 1, .pp = 1}), 2);
}

TEST(MemoryLayout, KvBlockBytesTimesBlocksIsTheCache) {
  for (const int64_t rank : {0, 1}) {
    const LayoutInput in = Small(1, 2, rank);
    EXPECT_EQ(BytesByName(in).at("kv"), 10 * KvBlockBytes(in));
  }
}

TEST(MemoryLayout, LimitsOutOfRangeAreNamedWithTheirValue) {
  const auto refusal = [](auto change) {
    LayoutInput in = Small();
    change(in);
    return MemoryLayout(in).status();
  };
  EXPECT_THAT(refusal([](LayoutInput& in) { in.limits.context = 0; }),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("context 0")));
  EXPECT_THAT(refusal([](LayoutInput& in) { in.limits.max_sequences = 0; }),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_sequences 0")));
  EXPECT_THAT(refusal([](LayoutInput& in) { in.limits.max_step_tokens = 1; }),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_step_tokens 1")));
  EXPECT_THAT(refusal([](LayoutInput& in) { in.limits.block_size = 24; }),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("block_size 24")));
  EXPECT_THAT(refusal([](LayoutInput& in) { in.kv_blocks = -1; }),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv_blocks -1")));
}

// The packed bytes of each matrix are the table's, and nothing else grows with them.
TEST(MemoryLayout, QuantizedMatricesTakeTheirFormatsBytes) {
  for (const char* name : {"gptq-int4", "gptq-int8", "awq"}) {
    LayoutInput in = Small();
    in.config.quant = ParseQuantFormat(name).value();
    in.config.intermediate = 256;
    in.shard = MakeShard(in.config, {1, 1}, 0, 8).value();
    const auto bytes = BytesByName(in);
    const auto rounded = [&](int64_t n, int64_t k) {
      return AlignUp(WeightBytes(in.config.quant, DType::kF32, n, k), kBufferAlignment);
    };
    EXPECT_EQ(bytes.at("layers.0.qkv"), rounded(256, 64)) << name;
    EXPECT_EQ(bytes.at("layers.0.down"), rounded(64, 256)) << name;
    EXPECT_EQ(bytes.count("normed") + bytes.count("split"), 0u) << name;
  }
}

// `in`, GPTQ in groups of 32, with act-order in the modules named: the first `odd` inputs are the
// last group's.
LayoutInput WithActOrder(LayoutInput in, const std::vector<std::string>& names, int odd) {
  in.config.quant = {QuantMethod::kGptq, 4, 32, true};
  QuantModules modules = {.base = in.config.quant};
  for (const LinearModule& m : LinearModules(in.config)) {
    QuantModule& module = modules.modules[m.name];
    module.format = in.config.quant;
    for (const std::string& name : names) {
      if (m.name != "model.layers.0." + name) continue;
      for (int64_t k = 0; k < m.k; ++k)
        module.g_idx.push_back(static_cast<int32_t>((k < odd ? m.k - 1 : k - odd) / 32));
    }
  }
  in.config.quant_modules = std::make_shared<const QuantModules>(std::move(modules));
  return in;
}

TEST(MemoryLayout, MatricesOfDifferentInputOrdersEachHaveACopyOfTheNorm) {
  const auto bytes = BytesByName(WithActOrder(Small(), {"self_attn.q_proj"}, 32));
  EXPECT_EQ(bytes.at("normed"), 32 * 3 * 64 * 4);
  EXPECT_EQ(bytes.at("split"), 32 * 128 * 4);  // q's rows
}

TEST(MemoryLayout, OneInputOrderTakesTheNormOnce) {
  const auto bytes = BytesByName(
      WithActOrder(Small(), {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, 32));
  EXPECT_EQ(bytes.at("normed"), 32 * 64 * 4);
  EXPECT_EQ(bytes.count("split"), 0u);
}

// Rank 0 has inputs 0 to 63 of o: 5 of group 3, 32 of group 0, 27 of group 1, which take 16, 32 and
// 32 places. Rows of 128 (qkv), 64 (q) and 80 floats for each of 32 tokens.
TEST(MemoryLayout, PaddingOfAttentionsOrderIsInItsRows) {
  const auto bytes = BytesByName(WithActOrder(Small(2), {"self_attn.o_proj"}, 5));
  EXPECT_EQ(bytes.at("scratch"), 32 * (128 + 64 + 80) * 4);
}

}  // namespace
}  // namespace tessera
