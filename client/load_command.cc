#include <climits>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <nlohmann/json.hpp>

#include "client/cluster_commands.h"
#include "client/connection.h"
#include "client/interrupt.h"
#include "client/model_flags.h"
#include "client/request_flags.h"
#include "client/terminal.h"
#include "client/units.h"
#include "common/status_macros.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

constexpr absl::Duration kLoadTimeout = absl::Hours(1);

// The last component of a path, trailing slashes aside.
std::string BaseName(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

// A directory seen from here becomes absolute, since the coordinator works in another one; anything
// else is left for the coordinator to look up.
std::string Resolve(const std::string& dir) {
  char path[PATH_MAX];
  return realpath(dir.c_str(), path) != nullptr ? std::string(path) : dir;
}

absl::StatusOr<v1::LoadModelRequest> MakeRequest(const Flags& flags) {
  const auto model = flags.String("model");
  if (!model) return absl::InvalidArgumentError("--model is missing");
  const size_t equals = model->find('=');
  const std::string dir = equals == std::string::npos ? *model : model->substr(equals + 1);
  const std::string name = equals == std::string::npos ? BaseName(dir) : model->substr(0, equals);
  if (name.empty() || dir.empty())
    return absl::InvalidArgumentError(absl::StrCat("--model \"", *model, "\": want NAME=DIR"));
  v1::LoadModelRequest request;
  request.set_name(name);
  v1::ModelOptions& options = *request.mutable_options();
  options.set_model_dir(Resolve(dir));
  ApplyModelFlags(flags, options);
  options.set_load_format(flags.String("load-format").value_or(""));
  options.set_chat_template(flags.String("chat-template").value_or(""));
  return request;
}

// Shows the events of a load as they come.
class LoadView {
 public:
  explicit LoadView(std::string name) : name_(std::move(name)) {}

  void OnEvent(const v1::LoadModelEvent& event) {
    if (event.has_plan()) ShowPlan(event.plan());
    if (event.total_bytes() > 0 && event.state() != "READY") {
      const int64_t tenths = event.loaded_bytes() * 10 / event.total_bytes();
      const std::string text = absl::StrFormat("%s: %.1f of %.1f MiB loaded (%d %%)", name_,
                                               MiB(event.loaded_bytes()), MiB(event.total_bytes()),
                                               event.loaded_bytes() * 100 / event.total_bytes());
      progress_.Show(text, tenths > shown_tenths_);
      shown_tenths_ = std::max(shown_tenths_, tenths);
    }
    if (event.state() == "READY") progress_.Line(absl::StrCat(name_, ": ready"));
  }

 private:
  void ShowPlan(const v1::PlanResponse& plan) {
    progress_.Line(absl::StrFormat("%s: %d %s, tp %d x pp %d, %d KV blocks a rank", name_,
                                   plan.gpus(), plan.gpus() == 1 ? "rank" : "ranks", plan.tp(),
                                   plan.pp(), plan.kv_blocks()));
    for (const std::string& warning : plan.warnings())
      progress_.Line(absl::StrCat(name_, ": warning: ", warning));
  }

  std::string name_;
  Progress progress_;
  int64_t shown_tenths_ = -1;
};

ordered_json ToJson(const std::string& name, const v1::PlanResponse& plan,
                    const v1::LoadModelEvent& ready) {
  ordered_json memory = ordered_json::array();
  for (const v1::RankMemory& rank : ready.memory())
    memory.push_back({{"rank", rank.rank()},
                      {"predicted_bytes", rank.predicted_bytes()},
                      {"measured_bytes", rank.measured_bytes()}});
  return {{"name", name},    {"state", ready.state()}, {"gpus", plan.gpus()},
          {"tp", plan.tp()}, {"pp", plan.pp()},        {"kv_blocks", plan.kv_blocks()},
          {"memory", memory}};
}

int RunLoad(const Flags& flags, const Environment& environment) {
  const absl::StatusOr<v1::LoadModelRequest> request = MakeRequest(flags);
  if (!request.ok()) return FailInput(request.status());
  const absl::StatusOr<Connection> connection = Connection::Open(flags, environment);
  if (!connection.ok()) return FailInput(connection.status());
  const auto context = connection->NewContext(kLoadTimeout);
  v1::PlanResponse plan;
  v1::LoadModelEvent event, last;
  absl::Status status;
  {
    const CancelOnInterrupt cancel(context.get());
    LoadView view(request->name());
    const auto reader = connection->cluster().LoadModel(context.get(), *request);
    while (reader->Read(&event)) {
      if (event.has_plan()) plan = event.plan();
      view.OnEvent(event);
      last = event;
    }
    status = ToAbsl(reader->Finish(), *context);
  }
  if (!status.ok()) return Fail(status);
  if (last.state() != "READY")
    return Fail(absl::InternalError("the load ended in state \"" + last.state() + "\""));
  if (flags.Switch("json")) {
    const auto replace = ordered_json::error_handler_t::replace;
    std::printf("%s\n", ToJson(request->name(), plan, last).dump(-1, ' ', false, replace).c_str());
    return kExitOk;
  }
  for (const v1::RankMemory& rank : last.memory())
    std::printf("rank %d: %.2f GiB predicted, %.2f GiB measured\n", rank.rank(),
                GiB(rank.predicted_bytes()), GiB(rank.measured_bytes()));
  return kExitOk;
}

int RunUnload(const Flags& flags, const Environment& environment) {
  const auto model = flags.String("model");
  if (!model) return FailUsage("--model is missing");
  const absl::StatusOr<Connection> connection = Connection::Open(flags, environment);
  if (!connection.ok()) return FailInput(connection.status());
  v1::UnloadModelRequest request;
  request.set_name(*model);
  v1::UnloadModelResponse response;
  const auto context = connection->NewContext(absl::Minutes(5));
  const CancelOnInterrupt cancel(context.get());
  const absl::Status status =
      ToAbsl(connection->cluster().UnloadModel(context.get(), request, &response), *context);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace

Command LoadCommand() {
  std::vector<FlagSpec> flags = {
      {.name = "model",
       .kind = FlagKind::kText,
       .value = "NAME=DIR",
       .help =
           "Name for requests and checkpoint directory, or a named model; NAME= may be left out",
       .fallback = "required"},
  };
  Append(flags, ModelFlags());
  Append(flags, {{.name = "load-format",
                  .value = "FORMAT",
                  .help = "dummy makes random weights",
                  .fallback = "auto",
                  .choices = "auto|dummy"},
                 {.name = "chat-template",
                  .kind = FlagKind::kText,
                  .value = "NAME",
                  .help = "A built-in chat template",
                  .fallback = "recognised from the model"},
                 {.name = "json",
                  .kind = FlagKind::kSwitch,
                  .help = "Print one JSON object when ready",
                  .fallback = "text"}});
  Append(flags, ConnectionFlags("3600"));
  return {.name = "load",
          .summary = "Place and load a model; returns when it is ready",
          .flags = std::move(flags),
          .run = RunLoad};
}

Command UnloadCommand() {
  std::vector<FlagSpec> flags = {LoadedModelFlag()};
  Append(flags, ConnectionFlags("300"));
  return {.name = "unload",
          .summary = "End a model's streams and free its ranks",
          .flags = std::move(flags),
          .run = RunUnload};
}

}  // namespace tessera
