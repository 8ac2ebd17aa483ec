// Quantized weights as a worker loads them: dummy values over any sharding, bad zero points, and
// the bytes that are allocated.

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/align.h"
#include "common/status_macros.h"
#include "kernels/runtime/runtime.h"
#include "model/checkpoint.h"
#include "tests/model/quant_checkpoint.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/local_cluster.h"
#include "worker/packed_source.h"
#include "worker/weight_loader.h"

namespace tessera::testing {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

const char kModels[] = TESSERA_TEST_DATA "/models/";

absl::StatusOr<WeightMap> Load(const ModelConfig& config, const std::string& dir, bool dummy) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Runtime> runtime, NewRuntime({.device = Device::kCpu}));
  LayoutInput in;
  in.config = config;
  ASSIGN_OR_RETURN(in.shard, MakeShard(config, {1, 1}, 0, 8));
  in.limits = {.context = 64, .max_sequences = 1, .max_step_tokens = 16, .block_size = 16};
  ASSIGN_OR_RETURN(const std::vector<BufferSpec> buffers, MemoryLayout(in));
  ASSIGN_OR_RETURN(const std::unique_ptr<Arena> arena, Arena::Create(*runtime, buffers));
  ASSIGN_OR_RETURN(const std::vector<WeightSpec> table, WeightTable(config, in.shard));
  ASSIGN_OR_RETURN(const Ops* ops, OpsFor(Device::kCpu));
  return LoadWeights(config, table, {.model_dir = dir, .dummy = dummy}, *arena, *runtime, *ops);
}

absl::Status LoadFiles(QuantCheckpoint& files) {
  const std::string& dir = files.Write();
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(dir));
  return Load(config, dir, /*dummy=*/false).status();
}

const char kZeros[] = "model.layers.0.mlp.down_proj.qzeros";

TEST(PackedWeights, SymmetricZeroPointsOfTheOtherGptqFormatAreAccepted) {
  QuantCheckpoint files;
  EXPECT_OK(LoadFiles(files));
  files.tensors()[kZeros].bytes = "\x88";  // what gptq_v2 writes
  EXPECT_OK(LoadFiles(files));
}

TEST(PackedWeights, ZeroPointsThatAreNotSymmetricAreDataLossThatNamesBoth) {
  QuantCheckpoint files;
  files.tensors()[kZeros].bytes = "\x74";
  EXPECT_THAT(LoadFiles(files), StatusIs(absl::StatusCode::kDataLoss,
                                         AllOf(HasSubstr("down_proj.qzeros has zero point 5"),
                                               HasSubstr("symmetric"))));
}

// A stored field of all ones, a zero point of 0, is fine but in a file of AutoGPTQ.
TEST(PackedWeights, ZeroPointsThatAutoGptqLosesAreWarnedOf) {
  const auto log_of = [](const std::string& zeros, const json& metadata) {
    QuantCheckpoint files;
    files.quant()["sym"] = false;
    files.metadata() = metadata;
    files.tensors()[kZeros].bytes = zeros;
    ::testing::internal::CaptureStderr();
    EXPECT_OK(LoadFiles(files));
    return ::testing::internal::GetCapturedStderr();
  };
  const json auto_gptq = {{"auto_gptq_version", "0.7.1"}};
  EXPECT_THAT(log_of("\x7f", auto_gptq),
              AllOf(HasSubstr("down_proj.qzeros"), HasSubstr("AutoGPTQ loses")));
  EXPECT_EQ(log_of("\x77", auto_gptq), "");
  EXPECT_EQ(log_of("\x7f", {{"format", "pt"}}), "");
}

TEST(PackedWeights, AScaleThatIsNotFiniteIsDataLoss) {
  QuantCheckpoint files;
  files.tensors()["model.layers.0.mlp.down_proj.scales"].bytes = std::string("\x00\x7c", 2);
  EXPECT_THAT(LoadFiles(files),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("down_proj.scales")));
}

TEST(PackedWeights, ATruncatedFileIsDataLoss) {
  QuantCheckpoint files;
  const std::string path = files.Write() + "/model.safetensors";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 100);
  EXPECT_THAT(LoadModelConfig(files.dir().path()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("model.safetensors")));
}

// Each tensor in turn with other sizes or of another type, and each gone: an error that names a
// tensor or a layer, or a load that works; never a crash.
TEST(PackedWeights, AnyOneTensorMayBeWrong) {
  std::vector<std::string> names;
  QuantCheckpoint whole;
  for (const auto& [name, tensor] : whole.tensors()) names.push_back(name);
  for (const std::string& name : names) {
    for (const int kind : {0, 1, 2, 3, 4}) {
      QuantCheckpoint files;
      auto& tensor = files.tensors()[name];
      if (kind == 0) tensor.shape.front() += 8;
      if (kind == 1) tensor.shape.back() = 0;
      if (kind == 2) tensor.shape.insert(tensor.shape.begin(), 1);
      if (kind == 3) tensor.dtype = tensor.dtype == "I32" ? "BF16" : "I32";
      if (kind == 4) files.tensors().erase(name);
      const absl::Status status = LoadFiles(files);
      // Symmetric layers need no qzeros.
      const bool harmless = kind == 4 && name.find(".qzeros") != std::string::npos;
      EXPECT_EQ(status.ok(), harmless) << name << " " << kind << " " << status;
    }
  }
}

// A config alone, as dummy loads use it, in a directory of its own.
std::string DummyDir(const TempDir& dir, const json& quant) {
  json config = json::parse(std::ifstream(std::string(kModels) + "llama3-f16-sharded/config.json"));
  config["intermediate_size"] = 416;
  config["quantization_config"] = quant;
  dir.Write("config.json", config.dump());
  return dir.path();
}

TEST(PackedWeights, DummyWeightsAreTheSameModelOverAnySharding) {
  for (const json& quant :
       {json{{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}},
        json{{"quant_method", "gptq"}, {"bits", 8}, {"group_size", 128}},
        json{{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}, {"sym", false}},
        json{{"quant_method", "awq"}, {"bits", 4}, {"group_size", 128}}}) {
    const TempDir dir;
    const std::string path = DummyDir(dir, quant);
    const auto run = [&](int64_t tp, int64_t pp) {
      return RunLocally({.model_dir = path, .tp = tp, .pp = pp, .dummy = true},
                        {GreedyRequest(0, {3, 14, 15, 92, 6}, 4)});
    };
    ASSERT_OK_AND_ASSIGN(const auto one, run(1, 1));
    ASSERT_EQ(one.at(0).tokens.size(), 4u);
    EXPECT_TRUE(std::isfinite(one.at(0).tokens[0].top_logprobs[0])) << quant;
    for (const auto& [tp, pp] : {std::pair(2, 1), {4, 1}, {1, 2}}) {
      ASSERT_OK_AND_ASSIGN(const auto sharded, run(tp, pp));
      EXPECT_EQ(sharded.at(0).ids(), one.at(0).ids()) << quant << " tp " << tp << " pp " << pp;
      // fp32 sums in another order.
      EXPECT_NEAR(sharded.at(0).tokens[0].top_logprobs[0], one.at(0).tokens[0].top_logprobs[0],
                  1e-4)
          << quant;
    }
  }
}

// Against the file's own bytes: a GPTQ file at group 128 (the trained tiny model).
TEST(PackedWeights, MemoryIsAtMostOnePercentOverTheFilesQuantizedBytes) {
  for (const char* name : {"gptq-int4-g128-tiny"}) {
    const std::string dir = std::string(kModels) + name;
    ASSERT_OK_AND_ASSIGN(const ModelConfig config, LoadModelConfig(dir));
    ASSERT_OK_AND_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(dir));
    int64_t file_bytes = 0, packed_bytes = 0;
    for (const auto& [tensor, entry] : checkpoint.tensors()) {
      for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx"}) {
        if (tensor.size() > 8 &&
            tensor.compare(tensor.size() - std::string(part).size(), std::string::npos, part) == 0)
          file_bytes += entry.bytes;
      }
    }
    ASSERT_OK_AND_ASSIGN(const Shard shard, MakeShard(config, {1, 1}, 0, 16));
    ASSERT_OK_AND_ASSIGN(const std::vector<WeightSpec> table, WeightTable(config, shard));
    for (const WeightSpec& spec : table) {
      if (spec.is_packed()) packed_bytes += AlignUp(spec.bytes(DType::kBf16), kBufferAlignment);
    }
    EXPECT_GT(packed_bytes, 0);
    EXPECT_LE(static_cast<double>(packed_bytes), 1.01 * static_cast<double>(file_bytes)) << name;
  }
}

}  // namespace
}  // namespace tessera::testing
