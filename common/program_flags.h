// Command lines of the two servers, on top of absl/flags.
#pragma once

#include <string>
#include <vector>

#include <absl/strings/string_view.h>

namespace tessera {

struct ProgramUsage {
  std::string name;         // "tessera-worker"
  std::string description;  // what the program does and one example
  std::string source;       // "worker/main.cc": only flags defined there are the program's own
};

// Parses the flags; `--a-flag` and `--a_flag` are the same. Returns what is not a flag. Exits with
// 0 after --help (each flag with its help text and default) or --version, and with 1 after naming a
// flag or value that is wrong.
std::vector<std::string> ParseProgramFlags(const ProgramUsage& usage, int argc, char** argv);

}  // namespace tessera
