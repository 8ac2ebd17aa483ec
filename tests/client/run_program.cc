#include "tests/client/run_program.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>

#include "common/check.h"

namespace tessera::testing {
namespace {

std::array<int, 2> Pipe() {
  std::array<int, 2> ends{};
  TESSERA_CHECK(pipe2(ends.data(), O_CLOEXEC) == 0);
  return ends;
}

[[noreturn]] void Exec(const ProgramRun& run, int in, int out, int err) {
  dup2(in, 0);
  dup2(out, 1);
  dup2(err, 2);
  for (const auto& [name, value] : run.environment) setenv(name.c_str(), value.c_str(), 1);
  std::vector<char*> argv;
  for (const std::string& arg : run.args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  _exit(127);
}

}  // namespace

ProgramResult RunProgram(const ProgramRun& run) {
  const std::array<int, 2> in = Pipe(), out = Pipe(), err = Pipe();
  const pid_t pid = fork();
  TESSERA_CHECK(pid >= 0);
  if (pid == 0) Exec(run, in[0], out[1], err[1]);
  close(in[0]);
  close(out[1]);
  close(err[1]);
  TESSERA_CHECK(write(in[1], run.input.data(), run.input.size()) ==
                static_cast<ssize_t>(run.input.size()));
  close(in[1]);
  ProgramResult result;
  bool signalled = run.signal == 0;
  std::array<pollfd, 2> watched = {pollfd{out[0], POLLIN, 0}, pollfd{err[0], POLLIN, 0}};
  while (watched[0].fd >= 0 || watched[1].fd >= 0) {
    poll(watched.data(), watched.size(), -1);
    for (size_t i = 0; i < watched.size(); ++i) {
      if (watched[i].fd < 0 || watched[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t n = read(watched[i].fd, buffer, sizeof(buffer));
      if (n <= 0) {
        close(watched[i].fd);
        watched[i].fd = -1;
        continue;
      }
      (i == 0 ? result.out : result.err).append(buffer, static_cast<size_t>(n));
    }
    if (!signalled && result.out.find(run.signal_after) != std::string::npos) {
      kill(pid, run.signal);
      signalled = true;
    }
  }
  int status = 0;
  TESSERA_CHECK(waitpid(pid, &status, 0) == pid);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace tessera::testing
