#include "common/program_flags.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include <absl/flags/commandlineflag.h>
#include <absl/flags/parse.h>
#include <absl/flags/reflection.h>
#include <absl/flags/usage.h>
#include <absl/flags/usage_config.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>

#include "common/version.h"

namespace tessera {
namespace {

// absl takes flags by their C++ names only; "--tls-cert" means tls_cert.
void DashesToUnderscores(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (argv[i][0] != '-' || argv[i][1] != '-') continue;
    for (char* c = argv[i] + 2; *c != '\0' && *c != '='; ++c) {
      if (*c == '-') *c = '_';
    }
  }
}

// absl's own --help exits with 1.
bool WantsHelp(int argc, char** argv) {
  return std::any_of(argv + 1, argv + argc, [](absl::string_view arg) {
    return arg == "--help" || arg == "-help" || arg == "-h";
  });
}

void PrintHelp(const ProgramUsage& usage) {
  std::printf("%s\n\nFlags:\n", usage.description.c_str());
  std::map<std::string, absl::CommandLineFlag*> own;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (absl::EndsWith(flag->Filename(), usage.source)) own[std::string(name)] = flag;
  }
  for (const auto& [name, flag] : own) {
    std::printf("  --%s\n      %s; default: \"%s\"\n",
                absl::StrReplaceAll(name, {{"_", "-"}}).c_str(), flag->Help().c_str(),
                flag->DefaultValue().c_str());
  }
  std::printf("  --version\n      print the version and exit\n");
}

}  // namespace

std::vector<std::string> ParseProgramFlags(const ProgramUsage& usage, int argc, char** argv) {
  absl::SetProgramUsageMessage(usage.description);
  if (WantsHelp(argc, argv)) {
    PrintHelp(usage);
    std::exit(0);
  }
  static std::string* version = new std::string();  // the callback outlives this call
  *version = absl::StrCat(usage.name, " ", kVersion, "\n");
  absl::FlagsUsageConfig config;
  config.version_string = [] { return *version; };
  absl::SetFlagsUsageConfig(config);
  DashesToUnderscores(argc, argv);
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  return {rest.begin() + 1, rest.end()};
}

}  // namespace tessera
