// What every command of `tessera` is made of.
#pragma once

#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include "client/flags.h"

namespace tessera {

// What main() found around the program.
struct Environment {
  std::string coordinator;  // $TESSERA_COORDINATOR; empty: not set
  std::string tls_ca;       // $TESSERA_TLS_CA
  std::string token_file;   // $TESSERA_TOKEN_FILE
  std::string models_dir;   // directory of named models' config.json files
  std::string command;      // the command line as a shell takes it, for records
};

// Exit codes of the program.
inline constexpr int kExitOk = 0;
inline constexpr int kExitError = 1;          // the work ended with an error
inline constexpr int kExitUsage = 2;          // the command line is wrong
inline constexpr int kExitInterrupted = 130;  // Ctrl-C

struct Command {
  absl::string_view name;        // "generate"
  absl::string_view summary;     // one line
  absl::string_view positional;  // names of the arguments without dashes; empty: none allowed
  std::vector<FlagSpec> flags;
  // Does the work, reports its own errors and returns the exit code.
  int (*run)(const Flags& flags, const Environment& environment) = nullptr;
};

// All commands, in the order --help lists them.
absl::Span<const Command> Commands();

// `tessera` with `args` (the program's name left out); returns the exit code.
int RunTessera(absl::Span<const std::string> args, const Environment& environment);

// Prints "error: CODE: text" on standard error. Returns kExitInterrupted after Ctrl-C, else
// kExitError.
int Fail(const absl::Status& status);

// Prints "error: INVALID_ARGUMENT: text" on standard error; returns kExitUsage.
int FailUsage(absl::string_view text);

// For what was read from the command line and the files it names, before any call: FailUsage() when
// `status` is kInvalidArgument, else Fail().
int FailInput(const absl::Status& status);

}  // namespace tessera
