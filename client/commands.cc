#include <algorithm>
#include <cstdio>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "client/bench_command.h"
#include "client/cluster_commands.h"
#include "client/command.h"
#include "client/generate_command.h"
#include "client/interrupt.h"
#include "client/plan_command.h"
#include "client/text_commands.h"
#include "common/build_commit.h"
#include "common/version.h"

namespace tessera {
namespace {

std::string ProgramHelp() {
  std::string text =
      "tessera: large language models on as few GPUs as will hold them\n\n"
      "usage: tessera COMMAND [FLAGS]\n\n";
  for (const Command& command : Commands())
    absl::StrAppend(&text, absl::StrFormat("  %-12s %s\n", command.name, command.summary));
  absl::StrAppend(&text,
                  "\n  tessera COMMAND --help lists a command's flags\n"
                  "  tessera --version     prints the version\n");
  return text;
}

std::string CommandHelp(const Command& command) {
  return absl::StrCat("tessera ", command.name, ": ", command.summary, "\n\nusage: tessera ",
                      command.name, command.positional.empty() ? "" : " ", command.positional,
                      " [FLAGS]\n\nflags, with what holds without them in brackets:\n",
                      DescribeFlags(command.flags));
}

}  // namespace

absl::Span<const Command> Commands() {
  static const auto* const commands = [] {
    auto* list = new std::vector<Command>{PlanCommand(),   LoadCommand(),     UnloadCommand(),
                                          ModelsCommand(), StatusCommand(),   GenerateCommand(),
                                          ChatCommand(),   TokenizeCommand(), DetokenizeCommand(),
                                          BenchCommand(),  DrainCommand()};
    for (Command& command : *list)
      command.flags.push_back({.name = "help", .kind = FlagKind::kSwitch, .help = "Print this"});
    return list;
  }();
  return *commands;
}

int RunTessera(absl::Span<const std::string> args, const Environment& environment) {
  if (args.empty()) {
    std::fputs(ProgramHelp().c_str(), stderr);
    return kExitUsage;
  }
  const std::string& name = args[0];
  if (name == "--help" || name == "-h" || name == "help") {
    std::fputs(ProgramHelp().c_str(), stdout);
    return kExitOk;
  }
  if (name == "--version") {
    std::printf("tessera %s (%s)\n", kVersion, BuildCommit());
    return kExitOk;
  }
  const auto command = std::find_if(Commands().begin(), Commands().end(),
                                    [&](const Command& c) { return c.name == name; });
  if (command == Commands().end())
    return FailUsage(absl::StrCat("\"", name, "\": no such command; see tessera --help"));
  args.remove_prefix(1);
  const absl::StatusOr<Flags> flags = Flags::Parse(command->flags, args);
  if (!flags.ok())
    return FailUsage(absl::StrCat(flags.status().message(), "; see tessera ", name, " --help"));
  if (flags->Switch("help")) {
    std::fputs(CommandHelp(*command).c_str(), stdout);
    return kExitOk;
  }
  if (command->positional.empty() && !flags->positional().empty()) {
    return FailUsage(absl::StrCat("\"", flags->positional()[0],
                                  "\": unexpected argument; see tessera ", name, " --help"));
  }
  const int exit_code = command->run(*flags, environment);
  if (std::fflush(stdout) == 0) return exit_code;
  return exit_code != kExitOk ? exit_code
                              : Fail(absl::DataLossError("standard output: write error"));
}

int Fail(const absl::Status& status) {
  absl::FPrintF(stderr, "error: %s: %s\n", absl::StatusCodeToString(status.code()),
                status.message());
  return Interrupted() ? kExitInterrupted : kExitError;
}

int FailUsage(absl::string_view text) {
  absl::FPrintF(stderr, "error: INVALID_ARGUMENT: %s\n", text);
  return kExitUsage;
}

int FailInput(const absl::Status& status) {
  return absl::IsInvalidArgument(status) ? FailUsage(status.message()) : Fail(status);
}

}  // namespace tessera
