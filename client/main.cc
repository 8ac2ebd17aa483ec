// tessera: the user's command. See docs/cli.md.

#include <cstdlib>
#include <string>
#include <vector>

#include "client/command.h"
#include "client/interrupt.h"

namespace {

std::string Variable(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

}  // namespace

int main(int argc, char** argv) {
  tessera::InstallInterrupt();
  const tessera::Environment environment = {
      .coordinator = Variable("TESSERA_COORDINATOR", ""),
      .tls_ca = Variable("TESSERA_TLS_CA", ""),
      .token_file = Variable("TESSERA_TOKEN_FILE", ""),
      .models_dir = Variable("TESSERA_MODELS_DIR", TESSERA_DEFAULT_MODELS_DIR)};
  return tessera::RunTessera(std::vector<std::string>(argv + 1, argv + argc), environment);
}
