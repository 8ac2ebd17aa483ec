// The program tessera-coordinator as a process: flags, exit codes, signals.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/program_options.h"
#include "tests/support/status_matchers.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using testing::StatusIs;

// A running coordinator; its standard output is read line by line.
class Process {
 public:
  explicit Process(std::vector<std::string> args) {
    int out[2];
    EXPECT_EQ(pipe(out), 0);
    args.insert(args.begin(), absl::StrCat(TESSERA_BINARY_DIR, "/bin/tessera-coordinator"));
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(out[1], STDOUT_FILENO);
      close(out[0]);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(out[1]);
    stdout_ = fdopen(out[0], "r");
  }
  ~Process() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      Wait();
    }
    fclose(stdout_);
  }
  // The next line with its end; empty at the end of the output.
  std::string Line() {
    char line[512];
    return fgets(line, sizeof(line), stdout_) == nullptr ? "" : line;
  }
  void Signal(int signal) { kill(pid_, signal); }
  // The exit code; -1 when a signal ended it.
  int Wait() {
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
  FILE* stdout_ = nullptr;
};

class ProgramTest : public ::testing::Test {
 protected:
  ProgramTest() { WriteFile(secret_, "0123456789abcdef0123\n"); }

  static std::string TempFile(const std::string& name) {
    return absl::StrCat(::testing::TempDir(), "/coordinator_program_", getpid(), "_", name);
  }
  static void WriteFile(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
  }
  std::string SecretFlag() const { return absl::StrCat("--launch-secret-file=", secret_); }
  // Its address, once it listens.
  static std::string Address(Process& process) {
    const std::string line = process.Line();
    EXPECT_THAT(line, StartsWith("listening on 127.0.0.1:"));
    return std::string(absl::StripSuffix(absl::StripPrefix(line, "listening on "), "\n"));
  }

  const std::string secret_ = TempFile("secret");
};

TEST_F(ProgramTest, SigtermDrainsAndExitsWithZero) {
  Process process({SecretFlag()});
  Address(process);
  process.Signal(SIGTERM);
  EXPECT_EQ(process.Wait(), 0);
}

TEST_F(ProgramTest, TakenPortIsOneLineAndAnExitCode) {
  Process first({SecretFlag()});
  const std::string address = Address(first);
  ::testing::internal::CaptureStderr();  // the child's, too
  Process second({SecretFlag(), absl::StrCat("--listen=", address)});
  EXPECT_EQ(second.Wait(), 1);
  const std::string error = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(error, HasSubstr(absl::StrCat("listen address ", address, ": already in use\n")));
  EXPECT_EQ(std::count(error.begin(), error.end(), '\n'), 1) << error;
}

TEST_F(ProgramTest, AddressFileHoldsTheAddress) {
  const std::string path = TempFile("address");
  Process process({SecretFlag(), absl::StrCat("--address_file=", path)});
  const std::string address = Address(process);
  process.Signal(SIGINT);
  EXPECT_EQ(process.Wait(), 0);
  std::string text;
  std::getline(std::ifstream(path), text);
  EXPECT_EQ(text, address);
}

TEST_F(ProgramTest, VersionAndHelpSucceed) {
  Process version({"--version"});
  EXPECT_THAT(version.Line(), StartsWith("tessera-coordinator "));
  EXPECT_EQ(version.Wait(), 0);
  Process help({"--help"});
  EXPECT_THAT(help.Line(), HasSubstr("Coordinates"));
  EXPECT_EQ(help.Wait(), 0);
}

TEST_F(ProgramTest, UnknownFlagsAndArgumentsFail) {
  EXPECT_NE(Process({SecretFlag(), "--no-such-flag=1"}).Wait(), 0);
  EXPECT_NE(Process({SecretFlag(), "word"}).Wait(), 0);
  EXPECT_NE(Process({}).Wait(), 0);  // no secret
}

TEST_F(ProgramTest, SecretsAreAtLeastSixteenBytes) {
  ProgramFlags flags{.listen = "127.0.0.1:0", .launch_secret = "short"};
  EXPECT_THAT(MakeCoordinatorOptions(flags),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("launch secret: 5 bytes")));
}

TEST_F(ProgramTest, LoopbackTakesAnyModelDirectoryAndOtherAddressesNone) {
  ProgramFlags flags{.listen = "127.0.0.1:0", .launch_secret_file = secret_};
  EXPECT_EQ(MakeCoordinatorOptions(flags)->cluster.sources.allowed_prefixes.size(), 1u);
  flags.listen = "0.0.0.0:0";
  EXPECT_EQ(MakeCoordinatorOptions(flags)->cluster.sources.allowed_prefixes.size(), 0u);
}

TEST_F(ProgramTest, ModelDirsAreNamesAndDirectories) {
  ProgramFlags flags{.listen = "127.0.0.1:0", .launch_secret_file = secret_, .models = {"a=/x"}};
  EXPECT_EQ(MakeCoordinatorOptions(flags)->cluster.sources.dirs.at("a"), "/x");
  for (const std::string entry : {"a", "=/x", "a=", "a b=/x"}) {
    flags.models = {entry};
    EXPECT_THAT(MakeCoordinatorOptions(flags),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--model-dirs")));
  }
}

TEST_F(ProgramTest, MissingFilesNameTheirFlag) {
  ProgramFlags flags{
      .listen = "127.0.0.1:0", .tls_cert = "/no/cert", .launch_secret_file = secret_};
  EXPECT_THAT(MakeCoordinatorOptions(flags),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("--tls-cert: ")));
}

}  // namespace
}  // namespace tessera
