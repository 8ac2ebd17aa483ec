// `tessera` as users run it, for tests of the program.
#pragma once

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/client/run_program.h"

namespace tessera::testing {

// Runs `tessera ARGS` with `address` as TESSERA_COORDINATOR.
inline ProgramResult Tessera(std::vector<std::string> args, const std::string& address = "",
                             ProgramRun run = {}) {
  args.insert(args.begin(), TESSERA_PROGRAM);
  run.args = std::move(args);
  run.environment.emplace("TESSERA_COORDINATOR", address);
  return RunProgram(run);
}

// A file of the test's that holds `text`.
inline std::string TempFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/tessera_cli_" + name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

}  // namespace tessera::testing
