// The program as users run it: exit codes, output and errors, against a scripted coordinator.
#include <algorithm>
#include <csignal>

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
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(Cli, VersionIsPrinted) {
  const ProgramResult r = Tessera({"--version"});
  EXPECT_EQ(r.exit_code, 0);
  EXPECT_THAT(r.out,
              ::testing::MatchesRegex("tessera [0-9.]+ \\(([0-9a-f]{12}(-dirty)?|unknown)\\)\n"));
}

TEST(Cli, EveryCommandHasHelp) {
  for (const char* command : {"plan", "load", "unload", "models", "status", "generate", "chat",
                              "tokenize", "detokenize", "bench", "drain"}) {
    SCOPED_TRACE(command);
    const ProgramResult r = Tessera({command, "--help"});
    EXPECT_EQ(r.exit_code, 0);
    EXPECT_THAT(r.out, HasSubstr(std::string("usage: tessera ") + command));
  }
}

TEST(Cli, NoCommandIsAUsageError) { EXPECT_EQ(Tessera({}).exit_code, 2); }

TEST(Cli, UnknownCommandIsNamed) {
  const ProgramResult r = Tessera({"generat"});
  EXPECT_EQ(r.exit_code, 2);
  EXPECT_THAT(r.err, HasSubstr("\"generat\""));
}

TEST(Cli, UnknownFlagIsNamed) {
  const ProgramResult r = Tessera({"status", "--jsno"});
  EXPECT_EQ(r.exit_code, 2);
  EXPECT_THAT(r.err, HasSubstr("--jsno"));
}

TEST(Cli, StrayArgumentIsNamed) {
  const ProgramResult r = Tessera({"status", "now"});
  EXPECT_EQ(r.exit_code, 2);
  EXPECT_THAT(r.err, HasSubstr("\"now\""));
}

TEST(Cli, MissingAddressSaysHowToGiveIt) {
  const ProgramResult r = Tessera({"status"});
  EXPECT_EQ(r.exit_code, 2);
  EXPECT_THAT(r.err, HasSubstr("TESSERA_COORDINATOR"));
}

TEST(Cli, UnreachableCoordinatorIsUnavailable) {
  const ProgramResult r = Tessera({"status", "--coordinator", "127.0.0.1:1"});
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_THAT(r.err, StartsWith("error: UNAVAILABLE: "));
}

TEST(CliPlan, RunsWithoutAClusterAndPrintsJson) {
  const ProgramResult r = Tessera({"plan", "--model", "qwen2-72b", "--gpu", "h200", "--context",
                                   "32768", "--sequences", "1", "--json"});
  ASSERT_EQ(r.exit_code, 0) << r.err;
  const json plan = json::parse(r.out);
  EXPECT_EQ(plan["gpus"], 2);
  EXPECT_EQ(plan["tp"], 2);
  EXPECT_EQ(plan["ranks"].size(), 2u);
  EXPECT_EQ(plan["ranks"][0]["buffers"]["reserve"].is_number(), true);
  EXPECT_THAT(plan["explanation"].get<std::string>(), HasSubstr("over by"));
}

TEST(CliPlan, QuantizedAndRoutedModelsArePlanned) {
  for (const char* quant : {"none", "gptq-int8", "gptq-int4", "awq"}) {
    SCOPED_TRACE(quant);
    const ProgramResult r =
        Tessera({"plan", "--model", "qwen2-57b-a14b", "--quant", quant, "--json"});
    ASSERT_EQ(r.exit_code, 0) << r.err;
    EXPECT_EQ(json::parse(r.out)["gpus"], 1);
  }
}

TEST(CliPlan, TakesADirectory) {
  const ProgramResult r =
      Tessera({"plan", "--model", TESSERA_TEST_DATA "/tiny-qwen2", "--gpu", "cpu"});
  EXPECT_EQ(r.exit_code, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("1 CPU rank"));
}

TEST(CliPlan, UnknownModelIsNotFound) {
  const ProgramResult r = Tessera({"plan", "--model", "qwen9"});
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_THAT(r.err, AllOf(StartsWith("error: NOT_FOUND: "), HasSubstr("qwen9")));
}

TEST(CliPlan, UnknownGpuIsNamed) {
  const ProgramResult r = Tessera({"plan", "--model", "qwen2-7b", "--gpu", "h300"});
  EXPECT_EQ(r.exit_code, 2);
  EXPECT_THAT(r.err, HasSubstr("h300"));
}

TEST(CliPlan, ForcedSplitThatHeadsRefuseIsNamed) {
  const ProgramResult r = Tessera({"plan", "--model", "qwen2-7b", "--tp", "3"});
  EXPECT_EQ(r.exit_code, 2);
  EXPECT_THAT(r.err, HasSubstr("tp 3"));
}

TEST(CliGenerate, SendsEveryField) {
  FakeCluster cluster;
  const ProgramResult r = Tessera({"generate",
                                   "--model",
                                   "tiny",
                                   "--prompt-ids",
                                   "1,2,3",
                                   "--max-tokens",
                                   "5",
                                   "--temperature",
                                   "0.5",
                                   "--top-p",
                                   "0.9",
                                   "--min-p",
                                   "0.1",
                                   "--top-k",
                                   "4",
                                   "--repetition-penalty",
                                   "1.5",
                                   "--presence-penalty",
                                   "-0.5",
                                   "--frequency-penalty",
                                   "0.25",
                                   "--seed",
                                   "18446744073709551615",
                                   "--logprobs",
                                   "2",
                                   "--prompt-logprobs",
                                   "--ignore-eos",
                                   "--stop",
                                   "END",
                                   "--stop-ids",
                                   "7,8",
                                   "--json"},
                                  cluster.address());
  ASSERT_EQ(r.exit_code, 0) << r.err;
  const v1::GenerateRequest& q = cluster.generate_request;
  EXPECT_EQ(q.model(), "tiny");
  EXPECT_THAT(q.token_ids().ids(), ElementsAre(1, 2, 3));
  EXPECT_EQ(q.max_tokens(), 5);
  EXPECT_EQ(q.sampling().temperature(), 0.5f);
  EXPECT_EQ(q.sampling().top_p(), 0.9f);
  EXPECT_EQ(q.sampling().min_p(), 0.1f);
  EXPECT_EQ(q.sampling().top_k(), 4);
  EXPECT_EQ(q.sampling().repetition_penalty(), 1.5f);
  EXPECT_EQ(q.sampling().presence_penalty(), -0.5f);
  EXPECT_EQ(q.sampling().frequency_penalty(), 0.25f);
  EXPECT_EQ(q.sampling().seed(), UINT64_MAX);
  EXPECT_TRUE(q.want_logprobs() && q.want_prompt_logprobs() && q.ignore_eos());
  EXPECT_EQ(q.logprobs(), 2);
  EXPECT_THAT(q.stop(), ElementsAre("END"));
  EXPECT_THAT(q.stop_ids(), ElementsAre(7, 8));
  EXPECT_EQ(q.choices(), 1);
  EXPECT_THAT(json::parse(r.out)["tokens"], ElementsAre(0, 1, 2, 3, 4));
}

TEST(CliGenerate, LeavesWhatIsNotGivenToTheServer) {
  FakeCluster cluster;
  const ProgramResult r =
      Tessera({"generate", "--model", "tiny", "--prompt", "hi"}, cluster.address());
  ASSERT_EQ(r.exit_code, 0) << r.err;
  const v1::GenerateRequest& q = cluster.generate_request;
  EXPECT_FALSE(q.has_max_tokens() || q.sampling().has_temperature() || q.sampling().has_seed() ||
               q.sampling().has_top_k() || q.want_logprobs());
  EXPECT_EQ(q.text(), "hi");
}

TEST(CliGenerate, StreamsText) {
  FakeCluster cluster;
  const ProgramResult r =
      Tessera({"generate", "--model", "tiny", "--chat", "hi"}, cluster.address());
  EXPECT_EQ(r.exit_code, 0) << r.err;
  EXPECT_EQ(r.out, "t0 t1 t2\n");
  ASSERT_EQ(cluster.generate_request.chat().messages_size(), 1);
  EXPECT_EQ(cluster.generate_request.chat().messages(0).role(), "user");
}

TEST(CliGenerate, StreamsIdsWithoutATokenizer) {
  FakeCluster cluster;
  cluster.has_tokenizer = false;
  const ProgramResult r =
      Tessera({"generate", "--model", "tiny", "--prompt-ids", "1"}, cluster.address());
  EXPECT_EQ(r.exit_code, 0) << r.err;
  EXPECT_EQ(r.out, "0,1,2\n");
}

TEST(CliGenerate, PromptFileIsSentWhole) {
  FakeCluster cluster;
  const std::string file = TempFile("prompt", "line\n\ttwo\n");
  const ProgramResult r =
      Tessera({"generate", "--model", "tiny", "--prompt-file", file}, cluster.address());
  EXPECT_EQ(r.exit_code, 0) << r.err;
  EXPECT_EQ(cluster.generate_request.text(), "line\n\ttwo\n");
}

TEST(CliGenerate, EmptyPromptReachesTheServer) {
  FakeCluster cluster;
  cluster.status = grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "prompt: empty");
  for (const char* flag : {"--prompt", "--prompt-ids", "--chat"}) {
    SCOPED_TRACE(flag);
    const ProgramResult r = Tessera({"generate", "--model", "tiny", flag, ""}, cluster.address());
    EXPECT_EQ(r.exit_code, 1);
    EXPECT_EQ(r.err, "error: INVALID_ARGUMENT: prompt: empty\n");
  }
}

TEST(CliGenerate, PromptFileMayBeAPipe) {
  FakeCluster cluster;
  for (const char* name : {"-", "/dev/stdin", "/dev/fd/0"}) {
    SCOPED_TRACE(name);
    const ProgramResult r = Tessera({"generate", "--model", "tiny", "--prompt-file", name},
                                    cluster.address(), {.input = "piped\n"});
    EXPECT_EQ(r.exit_code, 0) << r.err;
    EXPECT_EQ(cluster.generate_request.text(), "piped\n");
  }
}

TEST(CliGenerate, EmptyDeviceIsAnEmptyPromptForTheServer) {
  FakeCluster cluster;
  cluster.status = grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "text: empty prompt");
  const ProgramResult r =
      Tessera({"generate", "--model", "tiny", "--prompt-file", "/dev/null"}, cluster.address());
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_EQ(r.err, "error: INVALID_ARGUMENT: text: empty prompt\n");
  EXPECT_EQ(cluster.generate_request.prompt_case(), v1::GenerateRequest::kText);
}

TEST(CliGenerate, WantsOnePrompt) {
  for (const auto& args : std::vector<std::vector<std::string>>{
           {"generate", "--model", "tiny"},
           {"generate", "--model", "tiny", "--prompt", "a", "--prompt-ids", "1"}}) {
    const ProgramResult r = Tessera(args, "127.0.0.1:1");
    EXPECT_EQ(r.exit_code, 2);
    EXPECT_THAT(r.err, HasSubstr("exactly one"));
  }
}

TEST(CliGenerate, ValueOutOfRangeNamesFlagAndValue) {
  for (const auto& [flag, value] :
       std::vector<std::pair<std::string, std::string>>{{"--temperature", "nan"},
                                                        {"--temperature", "-1"},
                                                        {"--top-p", "0"},
                                                        {"--top-p", "1.5"},
                                                        {"--min-p", "-0.1"},
                                                        {"--top-k", "-1"},
                                                        {"--repetition-penalty", "0"},
                                                        {"--presence-penalty", "inf"},
                                                        {"--logprobs", "21"},
                                                        {"--max-tokens", "0"},
                                                        {"--seed", "-1"},
                                                        {"-n", "0"},
                                                        {"--prompt-ids", "1,x"}}) {
    SCOPED_TRACE(flag);
    const ProgramResult r =
        Tessera({"generate", "--model", "tiny", "--prompt", "a", flag, value}, "127.0.0.1:1");
    EXPECT_EQ(r.exit_code, 2);
    EXPECT_THAT(r.err, AllOf(StartsWith("error: INVALID_ARGUMENT: "), HasSubstr(flag),
                             HasSubstr("\"" + value + "\"")));
  }
}

TEST(CliGenerate, ServerErrorIsCodeAndText) {
  FakeCluster cluster;
  cluster.status = grpc::Status(grpc::StatusCode::NOT_FOUND, "model \"big\": not loaded");
  const ProgramResult r =
      Tessera({"generate", "--model", "big", "--prompt", "a", "--json"}, cluster.address());
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_EQ(r.err, "error: NOT_FOUND: model \"big\": not loaded\n");
  EXPECT_EQ(r.out, "");
}

TEST(CliGenerate, FullQueueShowsTheRetryHint) {
  FakeCluster cluster;
  cluster.status = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue full");
  cluster.retry_after_ms = "250";
  const ProgramResult r =
      Tessera({"generate", "--model", "tiny", "--prompt", "a", "--json"}, cluster.address());
  EXPECT_EQ(r.err, "error: RESOURCE_EXHAUSTED: queue full (retry after 250 ms)\n");
}

TEST(CliGenerate, StreamWithoutAFinishReasonIsAnError) {
  FakeCluster cluster;
  cluster.events.emplace_back().add_tokens()->set_id(1);
  const ProgramResult r =
      Tessera({"generate", "--model", "tiny", "--prompt", "a", "--json"}, cluster.address());
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_THAT(r.err, StartsWith("error: INTERNAL: "));
}

TEST(CliGenerate, CtrlCCancelsAndExits130) {
  FakeCluster cluster;
  cluster.hang = true;
  const ProgramResult r = Tessera({"generate", "--model", "tiny", "--prompt", "a"},
                                  cluster.address(), {.signal = SIGINT, .signal_after = "t0"});
  EXPECT_EQ(r.exit_code, 130);
  EXPECT_THAT(r.err, HasSubstr("CANCELLED"));
}

TEST(CliGenerate, TimeoutIsDeadlineExceeded) {
  FakeCluster cluster;
  cluster.hang = true;
  const ProgramResult r =
      Tessera({"generate", "--model", "tiny", "--prompt", "a", "--timeout", "1", "--json"},
              cluster.address());
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_THAT(r.err, StartsWith("error: DEADLINE_EXCEEDED: "));
}

TEST(CliGenerate, FileWithoutACertificateIsNamed) {
  const std::string file = TempFile("ca", "no PEM");
  const ProgramResult r =
      Tessera({"generate", "--model", "tiny", "--prompt", "a", "--tls-ca", file}, "127.0.0.1:1");
  EXPECT_EQ(r.exit_code, 2);
  EXPECT_EQ(r.err, "error: INVALID_ARGUMENT: " + file + ": holds no PEM certificate\n");
}

// A server that speaks no TLS: the error is one line, without gRPC's own.
TEST(CliGenerate, FailedHandshakeIsOneLine) {
  FakeCluster cluster;
  const ProgramResult r = Tessera({"generate", "--model", "tiny", "--prompt", "a", "--tls-ca",
                                   TESSERA_SOURCE_DIR "/tests/coordinator/testdata/cert.pem"},
                                  cluster.address());
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_THAT(r.err, StartsWith("error: UNAVAILABLE: "));
  EXPECT_EQ(std::count(r.err.begin(), r.err.end(), '\n'), 1) << r.err;
}

TEST(CliGenerate, TokenFileBecomesAuthorization) {
  FakeCluster cluster;
  const std::string file = TempFile("token", "s3cret\n");
  const ProgramResult r = Tessera(
      {"generate", "--model", "tiny", "--prompt", "a", "--token-file", file}, cluster.address());
  EXPECT_EQ(r.exit_code, 0) << r.err;
  EXPECT_EQ(cluster.authorization, "Bearer s3cret");
}

TEST(CliChat, KeepsTheConversation) {
  FakeCluster cluster;
  const ProgramResult r =
      Tessera({"chat", "--model", "tiny", "--system", "be brief"}, cluster.address(),
              {.input = "hello\n\nagain\n/exit\nnever sent\n"});
  EXPECT_EQ(r.exit_code, 0) << r.err;
  EXPECT_EQ(cluster.generate_calls, 2);
  const auto& messages = cluster.generate_request.chat().messages();
  ASSERT_EQ(messages.size(), 4);
  EXPECT_EQ(messages[0].role(), "system");
  EXPECT_EQ(messages[1].content(), "hello");
  EXPECT_EQ(messages[2].role(), "assistant");
  EXPECT_EQ(messages[2].content(), "t0 t1 t2");
  EXPECT_EQ(messages[3].content(), "again");
}

TEST(CliChat, FailedTurnIsTakenBackAndShowsInTheExitCode) {
  FakeCluster cluster;
  cluster.status = grpc::Status(grpc::StatusCode::UNAVAILABLE, "no ranks");
  const ProgramResult r =
      Tessera({"chat", "--model", "tiny"}, cluster.address(), {.input = "one\ntwo\n"});
  EXPECT_EQ(r.exit_code, 1);
  ASSERT_EQ(cluster.generate_request.chat().messages_size(), 1);
  EXPECT_EQ(cluster.generate_request.chat().messages(0).content(), "two");
}

}  // namespace
}  // namespace tessera
