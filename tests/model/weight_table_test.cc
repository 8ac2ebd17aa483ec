#include "model/weight_table.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/parameters.h"
#include "tests/model/safetensors_file.h"
#include "tests/model/weight_tables.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::Find;
using ::testing::HasSubstr;
using testing::MustTable;
using testing::Names;
using ::testing::Not;
using testing::SmallConfig;
using testing::StatusIs;
using testing::TensorHeader;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr const char* kTestModels[] = {
    "tiny-qwen2",        "models/llama3-f16-sharded", "models/llama-odd-vocab-f32",
    "models/qwen3-bf16", "models/qwen2-yarn-bf16",    "models/qwen2-mqa-7-layers-bf16"};

int64_t Area(const TensorBlock& block) {
  return (block.row_end - block.row_begin) * (block.col_end - block.col_begin);
}

// How many ranks hold each element of each tensor; the parts' shapes must agree.
using Coverage = std::map<std::string, std::vector<int>>;

void Count(const WeightPart& part, Coverage& coverage) {
  std::vector<int>& counts = coverage[part.tensor];
  counts.resize(static_cast<size_t>(part.tensor_rows * part.tensor_cols));
  for (int64_t row = part.block.row_begin; row < part.block.row_end; ++row) {
    for (int64_t col = part.block.col_begin; col < part.block.col_end; ++col)
      ++counts.at(static_cast<size_t>(row * part.tensor_cols + col));
  }
}

// Whether every element is held `copies` times. (A matcher per element is slow.)
bool AllAre(const std::vector<int>& counts, int copies) {
  return !counts.empty() &&
         std::all_of(counts.begin(), counts.end(), [copies](int count) { return count == copies; });
}

// How often the ranks of one stage hold each element of `tensor`.
int Copies(const ModelConfig& config, int64_t tp, const std::string& tensor) {
  const bool kv = absl::StrContains(tensor, "k_proj") || absl::StrContains(tensor, "v_proj");
  if (kv) return static_cast<int>(std::max(tp / config.kv_heads, int64_t{1}));
  return absl::StrContains(tensor, "norm") ? static_cast<int>(tp) : 1;
}

TEST(WeightTable, NamesFollowTheForwardPass) {
  ModelConfig config = SmallConfig();
  config.layers = 1;
  EXPECT_THAT(Names(MustTable(config, {1, 1}, 0)),
              ElementsAre("embed", "layers.0.attn_norm", "layers.0.qkv", "layers.0.qkv_bias",
                          "layers.0.q_norm", "layers.0.k_norm", "layers.0.o", "layers.0.mlp_norm",
                          "layers.0.gate_up", "layers.0.down", "final_norm", "head"));
}

TEST(WeightTable, LeavesOutWhatTheFamilyLacks) {
  ModelConfig config = SmallConfig();
  config.qkv_bias = false;
  config.qk_norm = false;
  const std::vector<std::string> names = Names(MustTable(config, {1, 1}, 0));
  EXPECT_THAT(names, Not(Contains(HasSubstr("bias"))));
  EXPECT_THAT(names, Not(Contains(HasSubstr("q_norm"))));
}

// tp 4 of 12 heads of 32 on 2 kv heads: rank 3 has q rows 288..383 and kv head 1.
TEST(WeightTable, QkvStacksTheRanksRows) {
  const std::vector<WeightSpec> table = MustTable(SmallConfig(), {4, 1}, 3);
  const WeightSpec& qkv = Find(table, "layers.0.qkv");
  EXPECT_EQ(qkv.rows, 96 + 32 + 32);
  EXPECT_EQ(qkv.cols, 64);
  EXPECT_EQ(qkv.role, WeightRole::kMatrix);
  ASSERT_EQ(qkv.parts.size(), 3u);
  EXPECT_EQ(qkv.parts[0].tensor, "model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(qkv.parts[0].block.row_begin, 288);
  EXPECT_EQ(qkv.parts[0].block.row_end, 384);
  EXPECT_EQ(qkv.parts[0].dst_row, 0);
  EXPECT_EQ(qkv.parts[1].tensor, "model.layers.0.self_attn.k_proj.weight");
  EXPECT_EQ(qkv.parts[1].block.row_begin, 32);
  EXPECT_EQ(qkv.parts[1].block.row_end, 64);
  EXPECT_EQ(qkv.parts[1].dst_row, 96);
  EXPECT_EQ(qkv.parts[2].tensor, "model.layers.0.self_attn.v_proj.weight");
  EXPECT_EQ(qkv.parts[2].dst_row, 128);
  const WeightSpec& bias = Find(table, "layers.0.qkv_bias");
  EXPECT_EQ(bias.rows, 1);
  EXPECT_EQ(bias.cols, 160);
  EXPECT_EQ(bias.parts[2].tensor, "model.layers.0.self_attn.v_proj.bias");
  EXPECT_EQ(bias.parts[2].block.col_begin, 32);
  EXPECT_EQ(bias.parts[2].dst_col, 128);
}

// 88 rows are 11 units of 8: 6 + 5.
TEST(WeightTable, FeedForwardSplitsItsRowsUnevenly) {
  const std::vector<WeightSpec> table = MustTable(SmallConfig(), {2, 1}, 1);
  const WeightSpec& gate_up = Find(table, "layers.2.gate_up");
  EXPECT_EQ(gate_up.rows, 2 * 40);
  EXPECT_EQ(gate_up.parts[0].tensor, "model.layers.2.mlp.gate_proj.weight");
  EXPECT_EQ(gate_up.parts[0].block.row_begin, 48);
  EXPECT_EQ(gate_up.parts[1].tensor, "model.layers.2.mlp.up_proj.weight");
  EXPECT_EQ(gate_up.parts[1].dst_row, 40);
  const WeightSpec& down = Find(table, "layers.2.down");
  EXPECT_EQ(down.rows, 64);
  EXPECT_EQ(down.cols, 40);
  EXPECT_EQ(down.parts[0].block.col_begin, 48);
  EXPECT_EQ(down.parts[0].block.col_end, 88);
}

TEST(WeightTable, TiedHeadIsReadAgainOnlyWhereTheEmbeddingIsNot) {
  ModelConfig config = SmallConfig();
  config.tied_embeddings = true;
  EXPECT_THAT(Names(MustTable(config, {1, 1}, 0)), Not(Contains("head")));
  EXPECT_THAT(Names(MustTable(config, {1, 2}, 0)), Contains("embed"));
  EXPECT_THAT(Names(MustTable(config, {1, 2}, 0)), Not(Contains("head")));
  const std::vector<WeightSpec> last = MustTable(config, {1, 2}, 1);
  EXPECT_THAT(Names(last), Not(Contains("embed")));
  EXPECT_EQ(Find(last, "head").parts[0].tensor, "model.embed_tokens.weight");
}

TEST(WeightTable, RolesTellVocabularyFromLinearLayers) {
  const std::vector<WeightSpec> table = MustTable(SmallConfig(), {1, 1}, 0);
  EXPECT_EQ(Find(table, "embed").role, WeightRole::kEmbedding);
  EXPECT_EQ(Find(table, "head").role, WeightRole::kEmbedding);
  EXPECT_EQ(Find(table, "final_norm").role, WeightRole::kNorm);
  EXPECT_EQ(Find(table, "layers.0.q_norm").role, WeightRole::kNorm);
  EXPECT_EQ(Find(table, "layers.0.qkv_bias").role, WeightRole::kBias);
  EXPECT_EQ(Find(table, "layers.0.down").role, WeightRole::kMatrix);
}

TEST(WeightTable, RanksTogetherCoverEveryElement) {
  for (const int64_t kv_heads : {1, 2, 12}) {
    for (int64_t tp = 1; tp <= 4; ++tp) {
      for (int64_t pp = 1; pp <= 3; ++pp) {
        ModelConfig config = SmallConfig();
        config.kv_heads = kv_heads;
        if (kv_heads % tp != 0 && tp % kv_heads != 0) continue;
        SCOPED_TRACE(absl::StrCat("kv ", kv_heads, " tp ", tp, " pp ", pp));
        Coverage coverage;
        for (int64_t rank = 0; rank < tp * pp; ++rank) {
          for (const WeightSpec& spec : MustTable(config, {tp, pp}, rank))
            for (const WeightPart& part : spec.parts) Count(part, coverage);
        }
        for (const WeightSpec& spec : MustTable(config, {1, 1}, 0)) {
          for (const WeightPart& part : spec.parts)
            EXPECT_TRUE(AllAre(coverage[part.tensor], Copies(config, tp, part.tensor)))
                << part.tensor;
        }
        EXPECT_EQ(coverage.size(), 3u + 3u * 14u);  // three outside the layers, 14 in each
      }
    }
  }
}

TEST(WeightTable, PartsFillTheirBufferOnceButForPaddingOfTheVocabulary) {
  for (int64_t rank = 0; rank < 8; ++rank) {
    ASSERT_OK_AND_ASSIGN(const Shard shard, MakeShard(SmallConfig(), {4, 2}, rank, 8));
    for (const WeightSpec& spec : MustTable(SmallConfig(), {4, 2}, rank)) {
      SCOPED_TRACE(spec.name);
      std::vector<int> counts(static_cast<size_t>(spec.rows * spec.cols));
      for (const WeightPart& part : spec.parts) {
        const int64_t rows = part.block.row_end - part.block.row_begin;
        const int64_t cols = part.block.col_end - part.block.col_begin;
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t col = 0; col < cols; ++col) {
            const int64_t at = (part.dst_row + row) * spec.cols + part.dst_col + col;
            ++counts.at(static_cast<size_t>(at));
          }
        }
      }
      if (spec.role == WeightRole::kEmbedding) {
        const auto held = counts.begin() + shard.vocab.size() * spec.cols;
        EXPECT_TRUE(std::all_of(held, counts.end(), [](int count) { return count == 0; }));
        counts.erase(held, counts.end());
      }
      EXPECT_TRUE(AllAre(counts, 1));
    }
  }
}

// 9 rows in widths of 8: the fourth rank has none of them, and a buffer as high as the others'.
TEST(WeightTable, RanksBeyondTheVocabularyHoldOnlyPadding) {
  ModelConfig config = SmallConfig();
  config.vocab = 9;
  const std::vector<WeightSpec> table = MustTable(config, {4, 1}, 3);
  EXPECT_EQ(Find(table, "embed").rows, 8);
  EXPECT_EQ(Area(Find(table, "embed").parts[0].block), 0);
}

TEST(WeightTable, RoutedExpertsAreUnimplemented) {
  ModelConfig config = SmallConfig();
  config.moe.experts = 8;
  EXPECT_THAT(WeightTable(config, Shard()),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("routed experts")));
}

struct NamedModel {
  std::string name;
  int64_t parameters;
};

void PrintTo(const NamedModel& model, std::ostream* out) { *out << model.name; }

class NamedModelTest : public ::testing::TestWithParam<NamedModel> {};

TEST_P(NamedModelTest, TableSumsToItsParameters) {
  ASSERT_OK_AND_ASSIGN(
      const ModelConfig config,
      LoadModelConfig(absl::StrCat(TESSERA_SOURCE_DIR "/benchmarks/models/", GetParam().name)));
  int64_t elements = 0;
  for (const WeightSpec& spec : MustTable(config, {1, 1}, 0))
    for (const WeightPart& part : spec.parts) elements += Area(part.block);
  EXPECT_EQ(elements, GetParam().parameters);
  EXPECT_EQ(elements, ParameterCount(config));
}

// docs/formats.md, "Parameter counts".
INSTANTIATE_TEST_SUITE_P(All, NamedModelTest,
                         ::testing::Values(NamedModel{"qwen2-0.5b", 494'032'768},
                                           NamedModel{"qwen2-1.5b", 1'543'714'304},
                                           NamedModel{"qwen2.5-3b", 3'085'938'688},
                                           NamedModel{"qwen2-7b", 7'615'616'512},
                                           NamedModel{"qwen2.5-14b", 14'770'033'664},
                                           NamedModel{"qwen1.5-32b", 32'512'218'112},
                                           NamedModel{"qwen2.5-32b", 32'763'876'352},
                                           NamedModel{"qwen2-72b", 72'706'203'648},
                                           NamedModel{"llama-2-13b", 13'015'864'320},
                                           NamedModel{"llama-3.1-8b", 8'030'261'248},
                                           NamedModel{"llama-3.1-70b", 70'553'706'496}));

class TestModelTest : public ::testing::TestWithParam<const char*> {};

TEST_P(TestModelTest, HasTheTensorsItsConfigNeeds) {
  const std::string dir = absl::StrCat(TESSERA_TEST_DATA "/", GetParam());
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, LoadModelConfig(dir));
  ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(dir));
  EXPECT_OK(CheckTensors(config, checkpoint));
  for (const auto& [name, tensor] : checkpoint.tensors())
    EXPECT_EQ(tensor.dtype, config.dtype) << name;
}

INSTANTIATE_TEST_SUITE_P(All, TestModelTest, ::testing::ValuesIn(kTestModels));

class CheckTensorsTest : public ::testing::Test {
 protected:
  // The header entries that SmallConfig() needs, as BF16, without offsets.
  void SetUp() override {
    for (const WeightSpec& spec : MustTable(config_, {1, 1}, 0)) {
      const bool vector = spec.role == WeightRole::kNorm || spec.role == WeightRole::kBias;
      for (const WeightPart& part : spec.parts) {
        shapes_[part.tensor] =
            vector ? json{part.tensor_cols} : json{part.tensor_rows, part.tensor_cols};
      }
    }
  }

  // Writes the tensors of shapes_ and dtypes_ (zeros, but for last_bytes_) and checks them.
  absl::Status Check() {
    json header;
    std::string body;
    int64_t offset = 0;
    for (const auto& [name, shape] : shapes_) {
      const std::string dtype = dtypes_.count(name) > 0 ? dtypes_[name] : "BF16";
      int64_t bytes = dtype == "BF16" || dtype == "F16" ? 2 : 4;
      for (const json& size : shape) bytes *= size.get<int64_t>();
      header[name] = TensorHeader(dtype, shape, offset, offset + bytes);
      offset += bytes;
      body.resize(static_cast<size_t>(offset), '\0');
      if (last_bytes_.count(name) > 0) body.back() = last_bytes_[name];
    }
    dir_.Write("model.safetensors", testing::SafetensorsBytes(header.dump(), body));
    const absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(dir_.path());
    return checkpoint.ok() ? CheckTensors(config_, *checkpoint) : checkpoint.status();
  }

  ModelConfig config_ = SmallConfig();
  std::map<std::string, json> shapes_;
  std::map<std::string, std::string> dtypes_;
  std::map<std::string, char> last_bytes_;
  testing::TempDir dir_;
};

TEST_F(CheckTensorsTest, AcceptsWhatTheTableNeeds) { EXPECT_OK(Check()); }

TEST_F(CheckTensorsTest, AcceptsEveryFloatType) {
  dtypes_["model.norm.weight"] = "F32";
  dtypes_["lm_head.weight"] = "F16";
  EXPECT_OK(Check());
}

TEST_F(CheckTensorsTest, AMissingTensorIsDataLoss) {
  shapes_.erase("model.layers.1.mlp.up_proj.weight");
  EXPECT_THAT(Check(), StatusIs(kDataLoss,
                                "tensor model.layers.1.mlp.up_proj.weight is not in the "
                                "checkpoint, needed as [88, 64]"));
}

TEST_F(CheckTensorsTest, AWrongShapeIsDataLoss) {
  shapes_["model.layers.1.mlp.down_proj.weight"] = {88, 64};
  EXPECT_THAT(Check(),
              StatusIs(kDataLoss, AllOf(HasSubstr("model.layers.1.mlp.down_proj.weight"),
                                        HasSubstr("is [88, 64]"), HasSubstr("needs [64, 88]"))));
}

TEST_F(CheckTensorsTest, AVectorAsAMatrixIsDataLoss) {
  shapes_["model.norm.weight"] = {1, 64};
  EXPECT_THAT(Check(),
              StatusIs(kDataLoss, AllOf(HasSubstr("is [1, 64]"), HasSubstr("needs [64]"))));
}

TEST_F(CheckTensorsTest, AnIntegerTensorIsDataLoss) {
  dtypes_["model.norm.weight"] = "I32";
  EXPECT_THAT(Check(), StatusIs(kDataLoss, AllOf(HasSubstr("model.norm.weight is i32"),
                                                 HasSubstr("f32, f16 or bf16"))));
}

TEST_F(CheckTensorsTest, AnUnknownTensorIsDataLoss) {
  shapes_["model.layers.0.self_attn.o_proj.bias"] = {64};
  EXPECT_THAT(Check(), StatusIs(kDataLoss, HasSubstr("o_proj.bias")));
}

TEST_F(CheckTensorsTest, ALayerTooManyIsDataLoss) {
  shapes_["model.layers.3.input_layernorm.weight"] = {64};
  EXPECT_THAT(Check(), StatusIs(kDataLoss, HasSubstr("model.layers.3")));
}

TEST_F(CheckTensorsTest, StrayFrequenciesAreAllowed) {
  shapes_["model.layers.0.self_attn.rotary_emb.inv_freq"] = {16};
  dtypes_["model.layers.0.self_attn.rotary_emb.inv_freq"] = "F32";
  EXPECT_OK(Check());
}

TEST_F(CheckTensorsTest, ARedundantTiedHeadIsAllowed) {
  config_.tied_embeddings = true;
  EXPECT_OK(Check());
}

TEST_F(CheckTensorsTest, ATiedHeadThatDiffersIsDataLoss) {
  config_.tied_embeddings = true;
  last_bytes_["lm_head.weight"] = 1;
  EXPECT_THAT(Check(), StatusIs(kDataLoss, HasSubstr("lm_head.weight differs from")));

  last_bytes_.clear();
  dtypes_["lm_head.weight"] = "F16";
  EXPECT_THAT(Check(), StatusIs(kDataLoss, HasSubstr("tie_word_embeddings is true")));
}

TEST_F(CheckTensorsTest, AnUntiedModelNeedsItsHead) {
  shapes_.erase("lm_head.weight");
  EXPECT_THAT(Check(), StatusIs(kDataLoss, HasSubstr("lm_head.weight is not in the checkpoint")));
}

TEST_F(CheckTensorsTest, RoutedModelsAreUnimplemented) {
  config_.moe.experts = 8;
  EXPECT_THAT(Check(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("routed experts")));
}

}  // namespace
}  // namespace tessera
