// Runs a program as a user would and takes what it prints.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace tessera::testing {

struct ProgramRun {
  std::vector<std::string> args;                   // the program first
  std::map<std::string, std::string> environment;  // added to this process's
  std::string input;                               // standard input
  int signal = 0;  // sent when `signal_after` has appeared on standard output; 0: none
  std::string signal_after;
};

struct ProgramResult {
  int exit_code = -1;  // 128 + the signal that ended it
  std::string out, err;
};

ProgramResult RunProgram(const ProgramRun& run);

}  // namespace tessera::testing
