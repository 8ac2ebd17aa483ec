#include "model/quant_modules.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/config.h"
#include "model/weight_table.h"
#include "tests/model/quant_checkpoint.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::StatusIs;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
const char kQ[] = "model.layers.0.self_attn.q_proj";
const char kDown[] = "model.layers.0.mlp.down_proj";

class QuantModulesTest : public ::testing::Test {
 protected:
  // As a worker does: the config, then the tensors.
  absl::Status Load(const std::string& file = "model.safetensors") {
    const std::string& dir = files_.Write(file);
    absl::StatusOr<ModelConfig> config = LoadModelConfig(dir);
    if (!config.ok()) return config.status();
    config_ = *std::move(config);
    const absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(dir);
    return checkpoint.ok() ? CheckTensors(config_, *checkpoint) : checkpoint.status();
  }

  testing::QuantCheckpoint files_;
  ModelConfig config_;
};

TEST_F(QuantModulesTest, EveryLinearLayerButTheHeadIsQuantized) {
  ASSERT_OK(Load());
  EXPECT_EQ(QuantOf(config_, kQ).format, config_.quant);
  EXPECT_TRUE(QuantOf(config_, kQ).g_idx.empty());
  EXPECT_FALSE(QuantOf(config_, "lm_head").format.quantized());
}

TEST_F(QuantModulesTest, TensorsSettleWhatNoRuleNames) {
  files_.AddDense(kDown, 64, 96);
  files_.AddLinear("lm_head", 64, 64);
  ASSERT_OK(Load());
  EXPECT_FALSE(QuantOf(config_, kDown).format.quantized());
  EXPECT_TRUE(QuantOf(config_, "lm_head").format.quantized());
}

TEST_F(QuantModulesTest, AwqsLettersYieldToTensors) {
  files_.quant() = {{"quant_method", "awq"},
                    {"bits", 4},
                    {"group_size", 32},
                    {"modules_to_not_convert", {"gate"}}};
  for (auto& [name, tensor] : files_.tensors()) {
    if (name.find(".qweight") == std::string::npos) continue;
    tensor.shape = {tensor.shape[0] * 8, tensor.shape[1] / 8};
  }
  ASSERT_OK(Load());
  EXPECT_TRUE(QuantOf(config_, "model.layers.0.mlp.gate_proj").format.quantized());
}

TEST_F(QuantModulesTest, ARuleThatTheTensorsContradictIsDataLossThatNamesBoth) {
  files_.quant()["dynamic"] = {{"-:.*down_proj", json::object()}};
  EXPECT_THAT(Load(), StatusIs(kDataLoss, AllOf(HasSubstr("dynamic \"-:.*down_proj\""),
                                                HasSubstr("down_proj is dense"),
                                                HasSubstr("down_proj.qweight"))));
  files_.quant()["dynamic"] = {{".*down_proj", {{"bits", 8}}}};
  files_.AddDense(kDown, 64, 96);
  EXPECT_THAT(Load(), StatusIs(kDataLoss, AllOf(HasSubstr("gptq 8 bit, group 32"),
                                                HasSubstr("down_proj.weight"))));
}

TEST_F(QuantModulesTest, BitsThatTheShapesContradictAreDataLossThatNamesBoth) {
  files_.quant()["bits"] = 8;
  EXPECT_THAT(Load(), StatusIs(kDataLoss,
                               AllOf(HasSubstr("q_proj.qweight is i32 [8, 64]"),
                                     HasSubstr("config.json: quantization_config says gptq 8 bit"),
                                     HasSubstr("i32 [16, 64]"))));
}

TEST_F(QuantModulesTest, AGroupThatTheShapesContradictIsDataLoss) {
  files_.quant()["group_size"] = 64;
  EXPECT_THAT(Load(), StatusIs(kDataLoss, AllOf(HasSubstr("scales is f16 [2, 64]"),
                                                HasSubstr("group 64"), HasSubstr("[1, 64]"))));
}

TEST_F(QuantModulesTest, AMethodThatTheShapesContradictIsDataLoss) {
  files_.quant()["quant_method"] = "awq";
  EXPECT_THAT(Load(), StatusIs(kDataLoss, AllOf(HasSubstr("awq 4 bit"), HasSubstr("[64, 8]"))));
}

TEST_F(QuantModulesTest, TensorsOfAnotherTypeAreDataLoss) {
  files_.tensors()[std::string(kQ) + ".qweight"].dtype = "F16";
  EXPECT_THAT(Load(), StatusIs(kDataLoss, HasSubstr("qweight is f16")));
}

TEST_F(QuantModulesTest, MissingPartsAreDataLoss) {
  files_.tensors().erase(std::string(kQ) + ".scales");
  EXPECT_THAT(Load(), StatusIs(kDataLoss, HasSubstr("q_proj.scales")));
}

TEST_F(QuantModulesTest, SymmetricLayersNeedNoZeroPointsAsymmetricOnesDo) {
  files_.tensors().erase(std::string(kQ) + ".qzeros");
  EXPECT_OK(Load());
  files_.quant()["sym"] = false;
  EXPECT_THAT(Load(), StatusIs(kDataLoss, HasSubstr("q_proj.qzeros")));
}

TEST_F(QuantModulesTest, BothFormsOfOneLayerAreDataLoss) {
  files_.tensors()[std::string(kQ) + ".weight"] = {"F16", {64, 64}, ""};
  EXPECT_THAT(Load(), StatusIs(kDataLoss, HasSubstr("both")));
}

TEST_F(QuantModulesTest, ADenseCheckpointThatCallsItselfQuantizedIsDataLoss) {
  for (const LinearModule& m : LinearModules(ModelConfig{.layers = 1,
                               .hidden = 64,
                               .heads = 2,
                               .kv_heads = 2,
                               .head_size = 32,
                               .intermediate = 96,
                               .vocab = 64}))
    files_.AddDense(m.name, m.n, m.k);
  EXPECT_THAT(Load(), StatusIs(kDataLoss, AllOf(HasSubstr("says gptq 4 bit"),
                                                HasSubstr("no linear layer with .qweight"))));
}

TEST_F(QuantModulesTest, QuantizedTensorsThatNobodyExplainsAreDataLoss) {
  files_.config().erase("quantization_config");
  EXPECT_THAT(Load(), StatusIs(kDataLoss, HasSubstr("quantize_config.json")));
}

TEST_F(QuantModulesTest, AFileBesideConfigMayExplainThem) {
  files_.dir().Write("quantize_config.json", files_.quant().dump());
  files_.config().erase("quantization_config");
  ASSERT_OK(Load());
  EXPECT_EQ(config_.quant.bits, 4);
}

TEST_F(QuantModulesTest, AFileOfAnotherNameIsFoundIfItIsTheOnlyOne) {
  EXPECT_OK(Load("gptq_model-4bit-32g.safetensors"));
  EXPECT_THAT(Load("gptq_model-4bit-64g.safetensors"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("model.safetensors")));
}

TEST_F(QuantModulesTest, SpuriousBiasesMustBeZero) {
  files_.tensors()[std::string(kQ) + ".bias"] = {"F16", {64}, ""};
  EXPECT_OK(Load());
  files_.tensors()[std::string(kQ) + ".bias"].bytes = "\1";
  EXPECT_THAT(Load(), StatusIs(kDataLoss, HasSubstr("q_proj.bias is not zero")));
}

// The flag does not count: the list says which input is of which group.
TEST_F(QuantModulesTest, TheListOfGroupsCountsAndNotTheFlag) {
  std::vector<int32_t> plain(64), swapped(64);
  for (int k = 0; k < 64; ++k) plain[static_cast<size_t>(k)] = k / 32;
  for (int k = 0; k < 64; ++k) swapped[static_cast<size_t>(k)] = 1 - k / 32;
  files_.quant()["desc_act"] = true;
  files_.SetGroups(kQ, plain);
  ASSERT_OK(Load());
  EXPECT_FALSE(QuantOf(config_, kQ).format.act_order);
  files_.quant()["desc_act"] = false;
  files_.SetGroups(kQ, swapped);
  ASSERT_OK(Load());
  EXPECT_TRUE(QuantOf(config_, kQ).format.act_order);
  EXPECT_EQ(QuantOf(config_, kQ).g_idx[0], 1);
}

TEST_F(QuantModulesTest, GroupsOutOfRangeAreDataLoss) {
  for (const int32_t bad : {-1, 2}) {
    std::vector<int32_t> groups(64, 0);
    groups[7] = bad;
    files_.SetGroups(kQ, groups);
    EXPECT_THAT(Load(), StatusIs(kDataLoss, AllOf(HasSubstr("q_proj.g_idx"), HasSubstr("at 7"))));
  }
  files_.SetGroups(kQ, std::vector<int32_t>(63, 0));
  EXPECT_THAT(Load(), StatusIs(kDataLoss, HasSubstr("must be i32 [64]")));
}

TEST_F(QuantModulesTest, SizesThatNoKernelTakesAreUnimplemented) {
  files_.config()["intermediate_size"] = 104;
  for (const char* name : {"gate_proj", "up_proj"})
    files_.AddLinear(std::string("model.layers.0.mlp.") + name, 104, 64);
  files_.AddLinear(kDown, 64, 104);
  EXPECT_THAT(Load(), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("104")));
}

}  // namespace
}  // namespace tessera
