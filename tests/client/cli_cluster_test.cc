// The program's commands about text, models, status and speed, against a scripted coordinator.
#include <fstream>

#include <nlohmann/json.hpp>

#include "tests/client/fake_cluster.h"
#include "tests/client/tessera_program.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using nlohmann::json;
using ::tessera::testing::FakeCluster;
using ::tessera::testing::ProgramResult;
using ::tessera::testing::TempFile;
using ::tessera::testing::Tessera;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(CliTokenize, PrintsJson) {
  FakeCluster cluster;
  const ProgramResult r =
      Tessera({"tokenize", "--model", "tiny", "--text-file", TempFile("text", "ab"), "--json"},
              cluster.address());
  EXPECT_EQ(r.exit_code, 0) << r.err;
  EXPECT_EQ(json::parse(r.out), json::parse(R"({"tokens": [97, 98]})"));
  EXPECT_FALSE(cluster.tokenize_request.add_special_tokens());
}

TEST(CliTokenize, EmptyTextHasNoTokens) {
  FakeCluster cluster;
  for (const std::string& file : {TempFile("none", ""), std::string("/dev/null")}) {
    SCOPED_TRACE(file);
    const ProgramResult r =
        Tessera({"tokenize", "--model", "tiny", "--text-file", file, "--json"}, cluster.address());
    EXPECT_EQ(r.exit_code, 0) << r.err;
    EXPECT_EQ(json::parse(r.out), json::parse(R"({"tokens": []})"));
    EXPECT_EQ(cluster.tokenize_request.input_case(), v1::TokenizeRequest::kText);
  }
}

TEST(CliTokenize, ReadsStandardInput) {
  FakeCluster cluster;
  const ProgramResult r = Tessera({"tokenize", "--model", "tiny", "--text-file", "-"},
                                  cluster.address(), {.input = "ab"});
  EXPECT_EQ(r.out, "97,98\n");
}

TEST(CliDetokenize, PrintsText) {
  FakeCluster cluster;
  const ProgramResult r =
      Tessera({"detokenize", "--model", "tiny", "--ids", "104,105"}, cluster.address());
  EXPECT_EQ(r.exit_code, 0) << r.err;
  EXPECT_EQ(r.out, "hi\n");
}

TEST(CliLoad, SendsOptionsAndShowsProgressOnStderr) {
  FakeCluster cluster;
  const ProgramResult r =
      Tessera({"load", "--model", "t=" TESSERA_TEST_DATA "/tiny-qwen2", "--context", "128", "--tp",
               "2", "--device-memory", "2G", "--dtype", "float16", "--load-format", "dummy",
               "--quant", "awq", "--json"},
              cluster.address());
  ASSERT_EQ(r.exit_code, 0) << r.err;
  const v1::LoadModelRequest& q = cluster.load_request;
  EXPECT_EQ(q.name(), "t");
  EXPECT_THAT(q.options().model_dir(), AllOf(StartsWith("/"), HasSubstr("tiny-qwen2")));
  EXPECT_EQ(q.options().context(), 128);
  EXPECT_EQ(q.options().tp(), 2);
  EXPECT_EQ(q.options().device_memory_bytes(), int64_t{2} << 30);
  EXPECT_EQ(q.options().dtype(), "float16");
  EXPECT_EQ(q.options().load_format(), "dummy");
  EXPECT_EQ(q.options().quant(), "awq");
  EXPECT_THAT(r.err, AllOf(HasSubstr("2 ranks"), HasSubstr("warning: context 9"), HasSubstr("50 %"),
                           HasSubstr("ready")));
  EXPECT_EQ(json::parse(r.out)["memory"][0]["measured_bytes"], 1001);
}

TEST(CliLoad, NamedModelIsLeftToTheCoordinator) {
  FakeCluster cluster;
  const ProgramResult r = Tessera({"load", "--model", "qwen2-7b"}, cluster.address());
  ASSERT_EQ(r.exit_code, 0) << r.err;
  EXPECT_EQ(cluster.load_request.name(), "qwen2-7b");
  EXPECT_EQ(cluster.load_request.options().model_dir(), "qwen2-7b");
}

TEST(CliLoad, RefusalIsCodeAndText) {
  FakeCluster cluster;
  cluster.status = grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "needs 4 ranks, 2 are idle");
  const ProgramResult r = Tessera({"load", "--model", "qwen2-7b"}, cluster.address());
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_THAT(r.err, HasSubstr("error: FAILED_PRECONDITION: needs 4 ranks, 2 are idle\n"));
}

TEST(CliStatus, ModelsStatusUnloadAndDrainSucceed) {
  FakeCluster cluster;
  EXPECT_EQ(json::parse(Tessera({"models", "--json"}, cluster.address()).out)["models"][0]["name"],
            "tiny");
  EXPECT_EQ(json::parse(Tessera({"status", "--json"}, cluster.address()).out)["pool_ranks"], 2);
  EXPECT_EQ(Tessera({"status"}, cluster.address()).exit_code, 0);
  EXPECT_EQ(Tessera({"models"}, cluster.address()).exit_code, 0);
  EXPECT_EQ(Tessera({"unload", "--model", "tiny"}, cluster.address()).exit_code, 0);
  EXPECT_EQ(Tessera({"drain", "--grace-ms", "5"}, cluster.address()).exit_code, 0);
  EXPECT_EQ(cluster.drain_request.grace_ms(), 5);
}

TEST(CliStatus, EngineCountersAreThoseOfAReadyModel) {
  FakeCluster cluster;
  const json model = json::parse(Tessera({"status", "--json"}, cluster.address()).out)["models"][0];
  EXPECT_EQ(model["running"], 1);
  EXPECT_EQ(model["waiting"], 2);
  EXPECT_EQ(model["kv_blocks_free"], 3);
  EXPECT_EQ(model["steps"], 4);
  EXPECT_THAT(Tessera({"status"}, cluster.address()).out, HasSubstr("1 running, 2 waiting"));
}

TEST(CliStatus, FailedModelShowsWhyAndNoEngineCounters) {
  FakeCluster cluster;
  cluster.model_state = "FAILED";
  const json model = json::parse(Tessera({"status", "--json"}, cluster.address()).out)["models"][0];
  for (const char* key : {"running", "waiting", "kv_blocks_free", "steps"})
    EXPECT_TRUE(model[key].is_null()) << key;
  EXPECT_EQ(model["failure"], "rank 1 was lost");
  const std::string text = Tessera({"status"}, cluster.address()).out;
  EXPECT_THAT(text, AllOf(HasSubstr("FAILED"), HasSubstr("rank 1 was lost"),
                          ::testing::Not(HasSubstr("running"))));
}

TEST(CliBench, WritesTableAndRecord) {
  FakeCluster cluster;
  const std::string file = TempFile("bench.json", "");
  const ProgramResult r = Tessera({"bench", "speed", "--model", "tiny", "--inputs", "1,8",
                                   "--output", "4", "--repeats", "3", "--json-out", file},
                                  cluster.address());
  ASSERT_EQ(r.exit_code, 0) << r.err;
  EXPECT_THAT(r.out, AllOf(HasSubstr("tokens/s"), HasSubstr("bfloat16"), HasSubstr("0.50")));
  EXPECT_EQ(cluster.generate_calls, 2 * (3 + 1));
  EXPECT_EQ(cluster.generate_request.token_ids().ids_size(), 8);
  EXPECT_TRUE(cluster.generate_request.ignore_eos());
  const json record = json::parse(std::ifstream(file));
  ASSERT_EQ(record["rows"].size(), 2u);
  EXPECT_EQ(record["rows"][1]["input_tokens"], 8);
  EXPECT_EQ(record["rows"][1]["samples"].size(), 3u);
  EXPECT_GT(record["rows"][0]["tokens_per_s"], 0.0);
  EXPECT_EQ(record["measured_bytes_per_gpu"], 1 << 29);
}

TEST(CliBench, RecordSaysWhatWasMeasuredAndHow) {
  FakeCluster cluster;
  const ProgramResult r =
      Tessera({"bench", "speed", "--model", "tiny", "--inputs", "1,2", "--output", "2", "--repeats",
               "1", "--json-out", "/dev/null", "--json", "--coordinator=" + cluster.address()});
  ASSERT_EQ(r.exit_code, 0) << r.err;
  const json record = json::parse(r.out);
  EXPECT_EQ(record["command"],
            "tessera bench speed --model tiny --inputs 1,2 --output 2 --repeats 1 --json-out "
            "/dev/null --json --coordinator=" +
                cluster.address());
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, std::string>>{{"commit", "0123456789ab"},
                                                        {"checkpoint", "Tiny-Instruct"},
                                                        {"load_format", "dummy"},
                                                        {"dtype", "bfloat16"},
                                                        {"quantization", "bfloat16"},
                                                        {"device", "NVIDIA Fake"},
                                                        {"driver", "580.65.06"},
                                                        {"cuda", "13.0"}})
    EXPECT_EQ(record[key], value) << key;
}

TEST(CliBench, CommandIsQuotedForAShell) {
  FakeCluster cluster;
  const std::string file = TempFile("it's a record.json", "");
  const ProgramResult r = Tessera({"bench", "speed", "--model", "tiny", "--inputs", "1", "--output",
                                   "2", "--repeats", "1", "--json", "--json-out", file},
                                  cluster.address());
  ASSERT_EQ(r.exit_code, 0) << r.err;
  EXPECT_THAT(json::parse(r.out)["command"].get<std::string>(),
              HasSubstr("_it'\\''s a record.json'"));
}

TEST(CliBench, ModelThatIsNotReadyIsNamed) {
  FakeCluster cluster;
  cluster.model_state = "FAILED";
  const ProgramResult r =
      Tessera({"bench", "speed", "--model", "tiny", "--inputs", "1"}, cluster.address());
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_THAT(r.err, HasSubstr("error: UNAVAILABLE: model tiny: not ready, FAILED"));
}

TEST(CliBench, RefusesMoreThanTheContext) {
  FakeCluster cluster;
  const ProgramResult r = Tessera(
      {"bench", "speed", "--model", "tiny", "--inputs", "60", "--output", "8"}, cluster.address());
  EXPECT_EQ(r.exit_code, 2);
  EXPECT_THAT(r.err, HasSubstr("context of 64"));
}

TEST(CliBench, UnknownBenchmarkIsAUsageError) {
  EXPECT_EQ(Tessera({"bench", "sped", "--model", "tiny"}, "127.0.0.1:1").exit_code, 2);
}

}  // namespace
}  // namespace tessera
