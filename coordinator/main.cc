// tessera-coordinator: the cluster's front door.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <absl/flags/flag.h>
#include <absl/strings/str_cat.h>

#include "common/log.h"
#include "common/program_flags.h"
#include "coordinator/clock.h"
#include "coordinator/coordinator.h"
#include "coordinator/program_options.h"
#include "planner/search.h"

ABSL_FLAG(std::string, listen, "127.0.0.1:0", "HOST:PORT to listen on; port 0 is any free one");
ABSL_FLAG(std::string, address_file, "",
          "file to write the address to once listening; empty: none");
ABSL_FLAG(std::string, tls_cert, "", "PEM file with the server's certificate chain; empty: no TLS");
ABSL_FLAG(std::string, tls_key, "", "PEM file with the certificate's key");
ABSL_FLAG(std::string, bearer_token_file, "",
          "file with the token users must send as 'authorization: Bearer TOKEN'; empty: none");
ABSL_FLAG(std::string, launch_secret_file, "",
          "file with the secret workers must send; this or --launch-secret-env is needed");
ABSL_FLAG(std::string, launch_secret_env, "",
          "environment variable that holds the workers' secret");
ABSL_FLAG(std::vector<std::string>, model_dirs, {},
          "models that may be loaded by name: NAME=DIR, comma-separated");
ABSL_FLAG(std::vector<std::string>, allow_model_dir, {},
          "directories below which LoadModel may name any path, comma-separated; empty: all of "
          "them when listening on loopback, else none");
ABSL_FLAG(std::string, models_config_dir, "",
          "directory with NAME/config.json of models known by name (benchmarks/models)");
ABSL_FLAG(int64_t, max_queued_requests, tessera::QueueLimits().requests,
          "choices of requests that may wait for their first token, per model");
ABSL_FLAG(int64_t, max_queued_tokens, tessera::QueueLimits().tokens,
          "prompt tokens that may wait, per model");
ABSL_FLAG(int64_t, max_queued_bytes, tessera::QueueLimits().bytes,
          "bytes of memory that waiting requests may take, per model");
ABSL_FLAG(absl::Duration, drain_grace, absl::Seconds(30),
          "how long running requests may go on after SIGTERM or SIGINT");

namespace {

// Exit code of a second SIGTERM or SIGINT.
constexpr int kExitInterrupted = 130;

tessera::ProgramFlags ReadFlags() {
  tessera::ProgramFlags flags;
  flags.listen = absl::GetFlag(FLAGS_listen);
  flags.tls_cert = absl::GetFlag(FLAGS_tls_cert);
  flags.tls_key = absl::GetFlag(FLAGS_tls_key);
  flags.bearer_token_file = absl::GetFlag(FLAGS_bearer_token_file);
  flags.launch_secret_file = absl::GetFlag(FLAGS_launch_secret_file);
  const std::string variable = absl::GetFlag(FLAGS_launch_secret_env);
  if (const char* secret = variable.empty() ? nullptr : std::getenv(variable.c_str())) {
    flags.launch_secret = secret;
  }
  flags.models = absl::GetFlag(FLAGS_model_dirs);
  flags.allow_model_dirs = absl::GetFlag(FLAGS_allow_model_dir);
  flags.models_config_dir = absl::GetFlag(FLAGS_models_config_dir);
  flags.queue = {.requests = absl::GetFlag(FLAGS_max_queued_requests),
                 .tokens = absl::GetFlag(FLAGS_max_queued_tokens),
                 .bytes = absl::GetFlag(FLAGS_max_queued_bytes)};
  return flags;
}

// Written beside and renamed, so that a reader never sees half an address.
bool WriteAddressFile(const std::string& path, const std::string& address) {
  const std::string partial = absl::StrCat(path, ".partial");
  std::ofstream file(partial);
  file << address << "\n";
  file.close();
  return file.good() && std::rename(partial.c_str(), path.c_str()) == 0;
}

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Drains at the first signal, exits at the second. Never returns.
[[noreturn]] void WatchSignals(tessera::Coordinator& coordinator, absl::Duration grace) {
  const sigset_t signals = StopSignals();
  int signal = 0;
  sigwait(&signals, &signal);
  tessera::LogInfo("signal ", signal, ": draining; a second one exits at once");
  coordinator.RequestDrain(grace);
  sigwait(&signals, &signal);
  _exit(kExitInterrupted);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> rest = tessera::ParseProgramFlags(
      {.name = "tessera-coordinator",
       .description =
           "Coordinates a cluster of tessera-workers and serves its gRPC API.\n"
           "Usage: tessera-coordinator --launch-secret-file FILE [--listen HOST:PORT] ...",
       .source = "coordinator/main.cc"},
      argc, argv);
  tessera::SetLogName("coordinator");
  if (!rest.empty()) {
    tessera::LogError("argument \"", rest[0], "\": only flags are taken");
    return 1;
  }
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // inherited by every thread

  const auto options = tessera::MakeCoordinatorOptions(ReadFlags());
  if (!options.ok()) {
    tessera::LogError(options.status().message());
    return 1;
  }
  const auto coordinator =
      tessera::Coordinator::Start(*options, tessera::FindPlan, tessera::SystemClock());
  if (!coordinator.ok()) {
    tessera::LogError(coordinator.status().message());
    return 1;
  }
  const std::string& address = (*coordinator)->address();
  std::printf("listening on %s\n", address.c_str());
  std::fflush(stdout);
  const std::string address_file = absl::GetFlag(FLAGS_address_file);
  if (!address_file.empty() && !WriteAddressFile(address_file, address)) {
    tessera::LogError("--address-file: cannot write ", address_file);
    return 1;
  }
  const absl::Duration grace = absl::GetFlag(FLAGS_drain_grace);
  std::thread([&] { WatchSignals(**coordinator, grace); }).detach();
  (*coordinator)->RunUntilDrained();
  std::fflush(nullptr);
  _exit(0);  // the signal thread still waits
}
