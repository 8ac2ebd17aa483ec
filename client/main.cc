// tessera: the user's command. See docs/cli.md.

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>

#include "client/command.h"
#include "client/interrupt.h"

namespace {

std::string Variable(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

// A word as a POSIX shell reads it.
std::string Quoted(const std::string& word) {
  constexpr char kHarmless[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-";
  if (!word.empty() && word.find_first_not_of(kHarmless) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

int main(int argc, char** argv) {
  // An error is one line: gRPC's own report of it says no more. Set the variable to see that.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  tessera::InstallInterrupt();
  const std::vector<std::string> args(argv + std::min(argc, 1), argv + argc);
  std::string command = "tessera";
  for (const std::string& arg : args) absl::StrAppend(&command, " ", Quoted(arg));
  const tessera::Environment environment = {
      .coordinator = Variable("TESSERA_COORDINATOR", ""),
      .tls_ca = Variable("TESSERA_TLS_CA", ""),
      .token_file = Variable("TESSERA_TOKEN_FILE", ""),
      .models_dir = Variable("TESSERA_MODELS_DIR", TESSERA_DEFAULT_MODELS_DIR),
      .command = command};
  return tessera::RunTessera(args, environment);
}
