#include "client/plan_command.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "client/model_flags.h"
#include "client/request_flags.h"
#include "common/status_macros.h"
#include "planner/explain.h"
#include "planner/gpus.h"
#include "planner/search.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

// A directory, or the name of one under `models_dir`. Names are single path components.
absl::StatusOr<ModelConfig> FindConfig(const std::string& model, const std::string& models_dir) {
  if (access(absl::StrCat(model, "/config.json").c_str(), F_OK) == 0) return LoadModelConfig(model);
  const std::string named = absl::StrCat(models_dir, "/", model);
  const bool plain = !absl::StrContains(model, '/') && !absl::StartsWith(model, ".");
  if (plain && access(absl::StrCat(named, "/config.json").c_str(), F_OK) == 0)
    return LoadModelConfig(named);
  return absl::NotFoundError(
      absl::StrCat("model \"", model, "\": no ", model, "/config.json",
                   plain ? absl::StrCat(" and no ", named, "/config.json") : ""));
}

absl::StatusOr<GpuFacts> DeviceOf(const std::string& name) {
  if (name != "cpu") return FindGpu(name);
  const int64_t pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGE_SIZE);
  if (pages <= 0 || page_bytes <= 0) return absl::InternalError("cpu: memory size is not known");
  return CpuRank(pages * page_bytes);
}

absl::StatusOr<PlanInput> MakeInput(const Flags& flags, const Environment& environment) {
  const auto model = flags.String("model");
  if (!model) return absl::InvalidArgumentError("--model is missing");
  PlanInput input;
  const std::string dir = flags.String("models-dir").value_or(environment.models_dir);
  ASSIGN_OR_RETURN(input.config, FindConfig(*model, dir));
  if (const auto quant = flags.String("quant")) {
    ASSIGN_OR_RETURN(input.config.quant, ParseQuantFormat(*quant));
  }
  absl::StatusOr<GpuFacts> gpu = DeviceOf(flags.String("gpu").value_or("h200"));
  if (absl::IsNotFound(gpu.status())) return absl::InvalidArgumentError(gpu.status().message());
  ASSIGN_OR_RETURN(input.gpu, std::move(gpu));
  input.dtype = DefaultDType(input.config, input.gpu.spec);
  if (const auto dtype = flags.String("dtype")) {
    ASSIGN_OR_RETURN(input.dtype, ParseFloatDType(*dtype));
    if (input.dtype == DType::kF32 && input.gpu.spec.device == Device::kCuda)
      return absl::InvalidArgumentError("--dtype float32: GPUs compute in bfloat16 or float16");
    if (input.dtype != DType::kF32 && input.gpu.spec.device == Device::kCpu)
      return absl::InvalidArgumentError(
          absl::StrCat("--dtype ", *dtype, ": CPU ranks compute in float32 only"));
  }
  input.sequences = flags.Int("sequences").value_or(1);
  input.limits = ResolveLimits(input.config, input.gpu.spec, LimitsOf(flags), input.sequences);
  input.memory_cap = flags.Int("device-memory").value_or(0);
  input.max_ranks = flags.Int("max-gpus").value_or(input.max_ranks);
  input.tp = flags.Int("tp").value_or(0);
  input.pp = flags.Int("pp").value_or(0);
  return input;
}

ordered_json ToJson(const PlanInput& input, const Plan& plan, const std::string& model) {
  ordered_json ranks = ordered_json::array();
  for (size_t r = 0; r < plan.ranks.size(); ++r) {
    const RankPlan& rank = plan.ranks[r];
    ordered_json buffers = ordered_json::object();
    for (const auto& [name, bytes] : BytesByComponent(rank)) buffers[name] = bytes;
    ranks.push_back({{"rank", r},
                     {"stage", rank.shard.stage},
                     {"tp_rank", rank.shard.tp_rank},
                     {"layers", {rank.shard.layers.begin, rank.shard.layers.end}},
                     {"buffers", buffers},
                     {"total_bytes", rank.total_bytes}});
  }
  return {{"model", model},
          {"gpu", input.gpu.name},
          {"gpus", plan.shape.ranks()},
          {"tp", plan.shape.tp},
          {"pp", plan.shape.pp},
          {"context", input.limits.context},
          {"sequences", input.sequences},
          {"max_sequences", input.limits.max_sequences},
          {"max_step_tokens", input.limits.max_step_tokens},
          {"block_size", input.limits.block_size},
          {"dtype", std::string(LongName(input.dtype))},
          {"usable_bytes", UsableBytes(input)},
          {"kv_blocks", plan.kv_blocks},
          {"predicted_ms_per_token", plan.ms_per_token},
          {"ranks", ranks},
          {"explanation", plan.explanation},
          {"warnings", plan.warnings}};
}

int RunPlan(const Flags& flags, const Environment& environment) {
  const absl::StatusOr<PlanInput> input = MakeInput(flags, environment);
  if (!input.ok()) return FailInput(input.status());
  const absl::StatusOr<Plan> plan = FindPlan(*input);
  if (!plan.ok()) return FailInput(plan.status());
  if (!flags.Switch("json")) {
    std::fputs(Explain(*input, *plan).c_str(), stdout);
    return kExitOk;
  }
  for (const std::string& warning : plan->warnings)
    std::fprintf(stderr, "warning: %s\n", warning.c_str());
  std::printf("%s\n", ToJson(*input, *plan, *flags.String("model")).dump().c_str());
  return kExitOk;
}

}  // namespace

Command PlanCommand() {
  std::vector<FlagSpec> flags = {
      {.name = "model",
       .value = "NAME|DIR",
       .help = "A named model, or a directory with config.json",
       .fallback = "required"},
      {.name = "sequences",
       .kind = FlagKind::kInt,
       .value = "N",
       .help = "Sequences of full context that must fit at once",
       .fallback = "1",
       .min = 1,
       .max = 4096},
      {.name = "gpu",
       .value = "NAME",
       .help =
           "Device each rank has: h200, h100, a100-80gb, ... or cpu, with this machine's memory",
       .fallback = "h200"},
      {.name = "max-gpus",
       .kind = FlagKind::kInt,
       .value = "N",
       .help = "GPUs there are",
       .fallback = "1024",
       .min = 1,
       .max = 1024},
  };
  Append(flags, ModelFlags());
  Append(flags, {{.name = "models-dir",
                  .value = "DIR",
                  .help = "Where NAME/config.json of named models lie",
                  .fallback = "benchmarks/models of the source tree"},
                 {.name = "json",
                  .kind = FlagKind::kSwitch,
                  .help = "Print one JSON object",
                  .fallback = "text"}});
  return {.name = "plan",
          .summary = "The least GPUs a model needs, and why; no cluster needed",
          .flags = std::move(flags),
          .run = RunPlan};
}

}  // namespace tessera
