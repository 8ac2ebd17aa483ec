#include <cstdint>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/config.h"
#include "tests/model/safetensors_file.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::StatusIs;

json WithoutDType() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"hidden_size", 64},
          {"intermediate_size", 64},
          {"max_position_embeddings", 64},
          {"num_attention_heads", 2},
          {"num_hidden_layers", 1},
          {"vocab_size", 2}};
}

TEST(LoadModelConfig, ReadsTheFileOfADirectory) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, LoadModelConfig(TESSERA_TEST_DATA "/tiny-qwen2"));
  EXPECT_EQ(config.hidden, 256);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.rope.theta, 1e6);
}

// A checkpoint directory whose config.json names no dtype; its embedding is of `dtype`.
void WriteWithoutDType(const testing::TempDir& dir, const std::string& dtype, int64_t bytes) {
  json config = WithoutDType();
  config["torch_dtype"] = nullptr;
  dir.Write("config.json", config.dump());
  const json header = {
      {"model.embed_tokens.weight", testing::TensorHeader(dtype, {2, 1}, 4, 4 + 2 * bytes)},
      {"model.norm.weight", testing::TensorHeader("F32", {1}, 0, 4)}};
  dir.Write("model.safetensors",
            testing::SafetensorsBytes(header.dump(),
                                      std::string(static_cast<size_t>(4 + 2 * bytes), '\0')));
}

TEST(LoadModelConfig, TakesAnUnnamedDTypeFromTheEmbedding) {
  const testing::TempDir f32;
  WriteWithoutDType(f32, "F32", 4);
  ASSERT_OK_AND_ASSIGN(const ModelConfig single, LoadModelConfig(f32.path()));
  EXPECT_EQ(single.dtype, DType::kF32);

  const testing::TempDir f16;
  WriteWithoutDType(f16, "F16", 2);
  ASSERT_OK_AND_ASSIGN(const ModelConfig half, LoadModelConfig(f16.path()));
  EXPECT_EQ(half.dtype, DType::kF16);
}

TEST(LoadModelConfig, UnnamedDTypeWithoutWeightsIsBf16) {
  const testing::TempDir dir;
  dir.Write("config.json", WithoutDType().dump());
  ASSERT_OK_AND_ASSIGN(const ModelConfig loaded, LoadModelConfig(dir.path()));
  EXPECT_EQ(loaded.dtype, DType::kBf16);
}

TEST(LoadModelConfig, UnnamedDTypeOfBrokenWeightsIsDataLoss) {
  const testing::TempDir dir;
  WriteWithoutDType(dir, "F32", 4);
  dir.Write("model.safetensors", "short");
  EXPECT_THAT(LoadModelConfig(dir.path()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("model.safetensors")));
}

TEST(LoadModelConfig, MissingFileIsNotFound) {
  EXPECT_THAT(LoadModelConfig(TESSERA_TEST_DATA "/no-such-model"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no-such-model/config.json")));
}

}  // namespace
}  // namespace tessera
