#include "client/bench_command.h"

#include <cstdio>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "client/bench_speed.h"
#include "client/connection.h"
#include "client/request_flags.h"
#include "client/terminal.h"
#include "common/status_macros.h"

namespace tessera {
namespace {

struct SpeedOptions {
  std::string model;
  std::vector<int32_t> inputs;
  int64_t output = 0, repeats = 0, warmup = 0;
  uint64_t seed = 0;
};

absl::StatusOr<SpeedOptions> OptionsOf(const Flags& flags) {
  SpeedOptions options{.model = flags.String("model").value_or(""),
                       .inputs = flags.IntList("inputs").value_or(std::vector<int32_t>{1, 6144}),
                       .output = flags.Int("output").value_or(2048),
                       .repeats = flags.Int("repeats").value_or(5),
                       .warmup = flags.Int("warmup").value_or(1),
                       .seed = flags.Uint("seed").value_or(0)};
  if (options.model.empty()) return absl::InvalidArgumentError("--model is missing");
  if (options.inputs.empty()) return absl::InvalidArgumentError("--inputs is empty");
  for (const int32_t input : options.inputs)
    if (input < 1)
      return absl::InvalidArgumentError(absl::StrCat("--inputs ", input, ": want at least 1"));
  return options;
}

absl::Status CheckContext(const SpeedOptions& options, const SpeedSubject& subject) {
  for (const int32_t input : options.inputs) {
    if (input + options.output <= subject.context) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "--inputs ", input, " and --output ", options.output, ": more than the context of ",
        subject.context, " tokens that ", subject.model, " is loaded with"));
  }
  return absl::OkStatus();
}

// All input lengths, one request at a time. A seed is used once, so no prompt repeats.
absl::StatusOr<std::vector<SpeedRow>> RunAll(const Connection& connection,
                                             const SpeedOptions& options,
                                             const SpeedSubject& subject) {
  std::vector<SpeedRow> rows;
  Progress progress;
  uint64_t seed = options.seed;
  for (const int32_t input : options.inputs) {
    SpeedRow row{.input_tokens = input, .output_tokens = options.output};
    for (int64_t i = -options.warmup; i < options.repeats; ++i) {
      progress.Show(
          absl::StrFormat(
              "%s: input %d, output %d, %s", options.model, input, options.output,
              i < 0 ? "warming up" : absl::StrCat("run ", i + 1, " of ", options.repeats)),
          i == 0);
      ASSIGN_OR_RETURN(const SpeedSample sample,
                       MeasureSpeed(connection, subject, input, options.output, seed++));
      if (i >= 0) row.samples.push_back(sample);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) return absl::NotFoundError(absl::StrCat(path, ": cannot be written"));
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const bool closed = std::fclose(file) == 0;
  if (!written || !closed) return absl::DataLossError(absl::StrCat(path, ": write error"));
  return absl::OkStatus();
}

int RunBench(const Flags& flags, const Environment& environment) {
  if (flags.positional() != std::vector<std::string>{"speed"})
    return FailUsage("want one benchmark: tessera bench speed; see tessera bench --help");
  const absl::StatusOr<SpeedOptions> options = OptionsOf(flags);
  if (!options.ok()) return FailInput(options.status());
  const absl::StatusOr<Connection> connection = Connection::Open(flags, environment);
  if (!connection.ok()) return FailInput(connection.status());
  const absl::StatusOr<SpeedSubject> subject = FindSubject(*connection, options->model);
  if (!subject.ok()) return Fail(subject.status());
  if (const absl::Status status = CheckContext(*options, *subject); !status.ok())
    return FailInput(status);
  const absl::StatusOr<std::vector<SpeedRow>> rows = RunAll(*connection, *options, *subject);
  if (!rows.ok()) return Fail(rows.status());
  const std::string json =
      absl::StrCat(SpeedJson(*subject, *rows, environment.command)
                       .dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace),
                   "\n");
  std::fputs(flags.Switch("json") ? json.c_str() : SpeedTable(*subject, *rows).c_str(), stdout);
  if (const auto path = flags.String("json-out")) {
    const absl::Status status = WriteFile(*path, json);
    if (!status.ok()) return Fail(status);
  }
  return kExitOk;
}

}  // namespace

Command BenchCommand() {
  std::vector<FlagSpec> flags = {
      LoadedModelFlag(),
      {.name = "inputs",
       .kind = FlagKind::kIntList,
       .value = "TOKENS",
       .help = "Prompt lengths, separated by commas",
       .fallback = "1,6144"},
      {.name = "output",
       .kind = FlagKind::kInt,
       .value = "TOKENS",
       .help = "Tokens of each answer",
       .fallback = "2048",
       .min = 1,
       .max = 1 << 24},
      {.name = "repeats",
       .kind = FlagKind::kInt,
       .value = "N",
       .help = "Requests measured per prompt length; the median counts",
       .fallback = "5",
       .min = 1,
       .max = 1000},
      {.name = "warmup",
       .kind = FlagKind::kInt,
       .value = "N",
       .help = "Requests before those",
       .fallback = "1",
       .min = 0,
       .max = 1000},
      {.name = "seed",
       .kind = FlagKind::kUint,
       .value = "N",
       .help = "Of the random prompts",
       .fallback = "0"},
      {.name = "json-out",
       .value = "FILE",
       .help = "Also write the record to FILE",
       .fallback = "none"},
      {.name = "json",
       .kind = FlagKind::kSwitch,
       .help = "Print the record instead of the table",
       .fallback = "off"},
  };
  Append(flags, ConnectionFlags("3600"));
  return {.name = "bench",
          .summary = "Measure speed at batch 1, one request at a time",
          .positional = "speed",
          .flags = std::move(flags),
          .run = RunBench};
}

}  // namespace tessera
