// Tables of quantized models; tests/model/weight_table_test.cc has the dense ones.
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/config.h"
#include "model/quant_inputs.h"
#include "model/quant_modules.h"
#include "model/range.h"
#include "model/weight_table.h"
#include "tests/model/weight_tables.h"

namespace tessera {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using testing::Find;
using testing::MustTable;
using testing::Names;
using ::testing::Not;
using testing::SmallConfig;

// d 128, 4 heads of 64 on 2, f 416 (13 groups of 32), vocabulary 200.
ModelConfig QuantConfigOf(int64_t group = 32) {
  ModelConfig config = SmallConfig();
  config.layers = 1;
  config.hidden = 128;
  config.heads = 4;
  config.head_size = 64;
  config.intermediate = 416;
  config.vocab = 200;
  config.quant = {QuantMethod::kGptq, 4, group, true};
  return config;
}

// Every input in the group of its reversed place.
std::vector<int32_t> Reversed(int64_t k, int64_t group) {
  std::vector<int32_t> g_idx;
  for (int64_t i = 0; i < k; ++i) g_idx.push_back(static_cast<int32_t>((k - 1 - i) / group));
  return g_idx;
}

// All linear layers but the head in the model's format; change them before SetModules().
QuantModules Modules(const ModelConfig& config) {
  QuantModules found = {.base = config.quant};
  for (const LinearModule& m : LinearModules(config)) {
    if (m.name != "lm_head") found.modules[m.name].format = config.quant;
  }
  return found;
}

void SetModules(ModelConfig& config, QuantModules modules) {
  config.quant_modules = std::make_shared<const QuantModules>(std::move(modules));
}

TEST(PackedTable, LayersAlikeShareAMatrix) {
  const std::vector<WeightSpec> table = MustTable(QuantConfigOf(), {1, 1}, 0);
  const WeightSpec& qkv = Find(table, "layers.0.qkv");
  ASSERT_TRUE(qkv.is_packed());
  EXPECT_EQ(qkv.rows, (4 + 2 + 2) * 64);
  ASSERT_EQ(qkv.packed.parts.size(), 3u);
  EXPECT_EQ(qkv.packed.parts[2].dst_row, (4 + 2) * 64);
  EXPECT_FALSE(qkv.packed.ordered);
  EXPECT_FALSE(Find(table, "head").is_packed());
}

// 13 groups over two ranks: 7 and 6, for gate and up rows as for down's inputs.
TEST(PackedTable, FeedForwardSplitsOnWholeGroupsOfDown) {
  for (const int64_t rank : {0, 1}) {
    const std::vector<WeightSpec> table = MustTable(QuantConfigOf(), {2, 1}, rank);
    const Range rows = rank == 0 ? Range{0, 224} : Range{224, 416};
    EXPECT_EQ(Find(table, "layers.0.gate_up").packed.parts[1].rows, rows);
    const QuantInputs& down = *Find(table, "layers.0.down").packed.inputs;
    EXPECT_EQ(down.first, rows.begin);
    EXPECT_EQ(down.k, rows.size());
    EXPECT_TRUE(down.group_of_step.empty());
  }
}

// 4 groups of 128 over eight ranks would leave four of them without work.
TEST(PackedTable, FewGroupsAreCutAtWordsOfTheFile) {
  ModelConfig config = QuantConfigOf(128);
  config.heads = 8;
  config.kv_heads = 8;
  const std::vector<WeightSpec> table = MustTable(config, {8, 1}, 1);
  const QuantInputs& down = *Find(table, "layers.0.down").packed.inputs;
  EXPECT_EQ(down.first, 64);  // 13 units of 32: 2 each for five ranks
  EXPECT_EQ(down.k, 64);
}

TEST(PackedTable, LayersUnlikeStandAlone) {
  ModelConfig config = QuantConfigOf();
  QuantModules modules = Modules(config);
  modules.modules["model.layers.0.self_attn.v_proj"].format.bits = 8;
  modules.modules.erase("model.layers.0.mlp.up_proj");
  SetModules(config, modules);
  const std::vector<WeightSpec> table = MustTable(config, {1, 1}, 0);
  EXPECT_EQ(Find(table, "layers.0.q").packed.bits, 4);
  EXPECT_EQ(Find(table, "layers.0.v").packed.bits, 8);
  EXPECT_TRUE(Find(table, "layers.0.gate").is_packed());
  EXPECT_FALSE(Find(table, "layers.0.up").is_packed());
  EXPECT_THAT(Names(table), Not(Contains("layers.0.qkv")));
}

TEST(PackedTable, LayersOfOneWidthInMemoryShareAMatrixWithZeroPointsIfOneHasThem) {
  ModelConfig config = QuantConfigOf();
  QuantModules modules = Modules(config);
  modules.modules["model.layers.0.self_attn.k_proj"].format.bits = 3;
  modules.modules["model.layers.0.self_attn.k_proj"].format.symmetric = false;
  SetModules(config, modules);
  const std::vector<WeightSpec> table = MustTable(config, {1, 1}, 0);
  const WeightSpec& qkv = Find(table, "layers.0.qkv");
  EXPECT_TRUE(qkv.packed.zeros);
}

TEST(PackedTable, LayersOfDifferentInputOrderStandAlone) {
  ModelConfig config = QuantConfigOf();
  QuantModules modules = Modules(config);
  for (const char* name : {"q_proj", "k_proj"})
    modules.modules[std::string("model.layers.0.self_attn.") + name].g_idx = Reversed(128, 32);
  SetModules(config, modules);
  const std::vector<WeightSpec> table = MustTable(config, {1, 1}, 0);
  EXPECT_TRUE(Find(table, "layers.0.q").packed.ordered);
  EXPECT_FALSE(Find(table, "layers.0.v").packed.ordered);
}

// gate and up rows lie as down wants its inputs, which then needs no order at run time.
TEST(PackedTable, DownsOrderIsFoldedIntoTheRowsOfGateAndUp) {
  ModelConfig config = QuantConfigOf();
  QuantModules modules = Modules(config);
  modules.modules["model.layers.0.mlp.down_proj"].g_idx = Reversed(416, 32);
  SetModules(config, modules);
  std::vector<int> held(416, 0);
  for (const int64_t rank : {0, 1}) {
    const std::vector<WeightSpec> table = MustTable(config, {2, 1}, rank);
    const WeightSpec& down = Find(table, "layers.0.down");
    const WeightSpec& gate_up = Find(table, "layers.0.gate_up");
    EXPECT_FALSE(down.packed.ordered);
    ASSERT_NE(gate_up.packed.parts[0].order, nullptr);
    EXPECT_EQ(*gate_up.packed.parts[0].order, down.packed.inputs->source);
    EXPECT_EQ(gate_up.rows, 2 * down.cols);
    for (const int32_t row : down.packed.inputs->source) ++held[static_cast<size_t>(row)];
  }
  EXPECT_THAT(held, ::testing::Each(1));
}

TEST(PackedTable, DownsOrderIsFoldedIntoDenseRowsToo) {
  ModelConfig config = QuantConfigOf();
  QuantModules modules = Modules(config);
  modules.modules["model.layers.0.mlp.down_proj"].g_idx = Reversed(416, 32);
  modules.modules.erase("model.layers.0.mlp.gate_proj");
  SetModules(config, modules);
  const std::vector<WeightSpec> table = MustTable(config, {2, 1}, 1);
  const WeightSpec& down = Find(table, "layers.0.down");
  const WeightSpec& gate = Find(table, "layers.0.gate");
  EXPECT_FALSE(down.packed.ordered);
  ASSERT_EQ(gate.parts.size(), 1u);
  ASSERT_NE(gate.parts[0].order, nullptr);
  EXPECT_EQ(*gate.parts[0].order, down.packed.inputs->source);
  EXPECT_EQ(gate.rows, down.cols);
}

TEST(PackedTable, AnOutputProjectionSortsItsHeadsInputs) {
  ModelConfig config = QuantConfigOf();
  QuantModules modules = Modules(config);
  modules.modules["model.layers.0.self_attn.o_proj"].g_idx = Reversed(256, 32);
  SetModules(config, modules);
  const std::vector<WeightSpec> table = MustTable(config, {2, 1}, 1);
  const WeightSpec& o = Find(table, "layers.0.o");
  EXPECT_TRUE(o.packed.ordered);
  EXPECT_EQ(o.packed.first_input, 128);
  EXPECT_THAT(o.packed.inputs->groups, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(o.packed.inputs->source.front(), 224);  // group 0 holds the last inputs
}

TEST(PackedTable, AQuantizedHeadIsPackedEvenWhereEmbeddingsAreTied) {
  ModelConfig config = QuantConfigOf();
  config.tied_embeddings = true;
  QuantModules modules = Modules(config);
  modules.modules["lm_head"].format = config.quant;
  SetModules(config, modules);
  const std::vector<WeightSpec> table = MustTable(config, {2, 1}, 1);
  const WeightSpec& head = Find(table, "head");
  EXPECT_TRUE(head.is_packed());
  EXPECT_EQ(head.rows, 104);  // 200 in two shards of 104
  EXPECT_EQ(head.packed.parts[0].rows, (Range{104, 200}));
}

}  // namespace
}  // namespace tessera
